"""Follows one request: history, encoding, graph, answer. Knows no HTTP, no Redis and no onnxruntime."""
