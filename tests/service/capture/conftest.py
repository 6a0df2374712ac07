"""Records that say which they are."""

from collections.abc import Callable

import numpy as np
import pytest

from service.capture.lines import Record

Made = Callable[..., Record]


@pytest.fixture
def record() -> Made:
    """Makes a record; whatever is given takes the place of a usual value."""

    def made(request_id: str = "r-1", **other) -> Record:
        usual = {
            "at": 1_790_000_000.25,
            "why": "sample",
            "model": "din",
            "version": "v1",
            "slot": "champion",
            "timestamp": 1_514_300_000,
            "content_type": b"application/json",
            "raw": b'{"user_id": "5", "candidates": ["a", "b"]}',
            "scores": np.array([0.1, 1 / 3]),
            "history_status": "hit",
            "history_length": 7,
            "newest_age_s": 60,
            "unknown_ads": 0,
            "stage_s": {"parse": 0.0001, "infer": 0.0025},
            "seconds": 0.003,
        }
        return Record(request_id=request_id, **{**usual, **other})

    return made
