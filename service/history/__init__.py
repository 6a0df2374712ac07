"""Behaviour histories and profiles in Redis: reading them for a request, loading them from a log.

The only home of `redis` and of the embedded Valkey besides `service.catalog`. Knows no HTTP, no graph, no candidate.
"""
