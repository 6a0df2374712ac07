"""Keeps scored requests in a file, so that they can be sent again: a sample of all, and those that were slow.

Knows nothing of HTTP or of models; `wiring` hands it records, on the event loop, and a thread writes them.
"""
