"""When DiffuMIN tells by how little its picks were decided."""

import pytest


@pytest.mark.parametrize(
    ("config", "picks"),
    [
        ({}, True),
        ({"kept_share": 1.0, "routing": True}, True),
        ({"routing": False, "kept_share": 0.5}, True),
        ({"routing": False, "kept_share": 1.0}, False),
    ],
)
def test_it_picks_unless_every_channel_keeps_every_behaviour(build, draw, config, picks):
    model = build("diffumin", diffusion=False, **config)
    gap_UN = model.routing_gaps(draw([9, 12], 3))
    assert (gap_UN is not None) == picks
    if picks:
        assert gap_UN.shape == (2, 3)
        assert 0 < gap_UN.max() < 10
