"""Behaviour histories and profiles in Redis: reading them for a request, loading them from a log.

Knows no HTTP, no graph and no candidate.
"""
