"""What holds for every test: one thread for small tensors, and onnxruntime writes nothing outside the repository."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads only wait for each other on a busy machine
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

settings.register_profile("untimed", deadline=None)  # an example may take long on a busy machine
settings.load_profile("untimed")
