"""What holds for every test: small tensors, so one thread; more only wait for each other on a busy machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
