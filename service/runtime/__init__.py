"""Runs the graph of a bundle. The only home of onnxruntime."""
