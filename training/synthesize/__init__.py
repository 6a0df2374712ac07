"""Logs with planted truth: behaviours, impressions, and the probability behind every click."""
