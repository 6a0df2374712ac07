"""A run becomes a bundle that is proven before it has its name.

`exporter` and `graph` need torch; `verify` needs onnxruntime alone.
"""
