"""Mutual information of behaviours and clicks: what chance and lively users make of it is taken off."""

from types import SimpleNamespace

import numpy as np

from training.report.information import Categories

USERS, REQUESTS, ADS, EVENTS, KINDS = 150, 15, 6, 32, 20
INSIDE = np.eye(6, dtype=np.float32)[np.digitize(np.arange(EVENTS, 0, -1), (2, 4, 8, 16, 32))]


def information(*, users: int = USERS, planted: bool = False):
    """Return the information of a log in which every user has a click rate and a taste of his own."""
    rng = np.random.default_rng(3)
    rate, taste = rng.beta(0.5, 4.5, users), rng.dirichlet(np.full(KINDS, 0.3), users)
    rows = users * REQUESTS * ADS
    kind = rng.integers(1, KINDS + 1, rows).astype(np.uint64)
    clicked = rng.random(rows) < np.repeat(rate, REQUESTS * ADS)
    seen = [
        1 + rng.choice(KINDS, EVENTS, p=taste[u]).astype(np.uint64) for u in np.repeat(range(users), REQUESTS)
    ]
    if planted:
        clicked |= kind == np.repeat([each[-1] for each in seen], ADS)
    columns = {"ad": np.arange(rows), "clicked": clicked}
    dataset = SimpleNamespace(row=columns.__getitem__, column=lambda _group, _name: kind)
    case = SimpleNamespace(dataset=dataset, main=SimpleNamespace(row=np.arange(rows)))
    counted = Categories(case, SimpleNamespace(name="kind"))
    for request, events in enumerate(seen):
        row = np.arange(request * ADS, (request + 1) * ADS)
        counted.add(request // REQUESTS, row, kind[row], events, INSIDE)
    return counted.information(0)


def test_users_who_click_a_lot_make_no_information():
    _, other = information()
    assert abs(other[1:].mean()) < 0.05  # clicks shuffled among all users would leave .1


def test_what_is_planted_stays():
    own, other = information(planted=True)
    assert own[0] > 100
    assert own[0] > 20 * abs(own[5])
    assert abs(other).max() < 0.01 * own[0]


def test_of_one_user_there_is_none():
    assert np.isnan(information(users=1)).all()
