"""Joins requests into runs of the graph. Knows nothing of HTTP, Redis or onnxruntime: it is given `run`."""
