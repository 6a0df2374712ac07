"""When the scores of a request have to be there."""

import math

import pytest

from service.api.requests import Moment


def test_without_a_deadline_there_is_none():
    assert Moment(now_s=0.0, arrived_s=5.0, answer_wait_s=0.01).deadline_s(0) == math.inf


@pytest.mark.parametrize(
    ("wait_s", "reserved_s"),
    [(0.0, 0.0), (0.001, 0.001), (0.005, 0.0025)],
    ids=["none", "all", "a twentieth"],
)
def test_a_part_of_the_deadline_is_kept_for_the_wait_of_the_answer(wait_s, reserved_s):
    moment = Moment(now_s=0.0, arrived_s=5.0, answer_wait_s=wait_s)
    assert moment.deadline_s(50) == pytest.approx(5.05 - reserved_s)
