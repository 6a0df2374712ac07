"""The click task made of a log without impressions: which clicks are asked for, and what stands beside them."""

import numpy as np
import pytest

from training.importers.taobao_targets import CHOSEN, Items, Task

EVENT = np.dtype([("user", "<u4"), ("timestamp", "<u4"), ("item", "<u4")])
STARTS = (1000, 2000)


def events(rows):
    return np.array(sorted(rows, key=lambda row: row[:2]), dtype=EVENT)


def random_events(*, users=200, each=40, items=50, seed=0):
    generator = np.random.default_rng(seed)
    size = users * each
    columns = (
        np.repeat(np.arange(users), each),
        generator.integers(0, 3000, size),
        generator.integers(0, items, size),
    )
    return events(list(zip(*(column.tolist() for column in columns), strict=True)))


def catalogue(items=50):
    return Items(np.arange(items, dtype=np.uint32), np.arange(1, items + 1, dtype=np.int64))


def requests(log, items=None, *, targets=2, min_history=5, negatives=4, seed=0, clicks=None):
    task = Task(STARTS, targets, min_history, negatives, seed)
    everything = np.ones(len(log), dtype=bool)
    return task.requests(log, items or catalogue(), everything if clicks is None else clicks)


def by_request(chosen):
    found = {}
    for user, second, item, clicked in chosen.tolist():
        found.setdefault((user, second), []).append((item, clicked))
    return found


def test_a_request_is_one_click_and_distinct_items_beside_it():
    log = random_events()
    found = by_request(requests(log))
    happened = {(user, second, item) for user, second, item in log.tolist()}
    for (user, second), rows in found.items():
        assert len(rows) == 5
        assert len({item for item, _ in rows}) == 5
        assert [item for item, clicked in rows if clicked and (user, second, item) in happened]
        assert sum(clicked for _, clicked in rows) == 1


def test_nothing_that_the_user_did_in_that_second_is_denied():
    log = events([(1, 5, 0), (1, 6, 1), *[(1, 900, item) for item in range(40)]])
    (rows,) = by_request(requests(log, min_history=2, negatives=10)).values()
    assert len(rows) == 11
    assert all(clicked == (item < 40) for item, clicked in rows)


def test_what_the_user_did_before_may_be_denied():
    log = events([(user, second, item) for user in range(50) for second, item in enumerate(range(45))])
    denied = {item for rows in by_request(requests(log)).values() for item, clicked in rows if not clicked}
    assert len(denied & set(range(45))) > 30


def test_every_split_has_at_most_so_many_requests_of_a_user():
    for targets in (1, 3):
        found = by_request(requests(random_events(), targets=targets))
        counts = {}
        for user, second in found:
            split = sum(second >= start for start in STARTS)
            counts[user, split] = counts.get((user, split), 0) + 1
        assert max(counts.values()) == targets
        assert {split for _, split in counts} == {0, 1, 2}


def test_a_request_has_enough_events_strictly_before_its_second():
    log = events([(1, 1, 7), (1, 2, 7), (1, 2, 8), (1, 3, 9), (2, 1, 7), (2, 2, 8)])
    assert set(by_request(requests(log, min_history=3, targets=9))) == {(1, 3)}
    assert set(by_request(requests(log, min_history=1, targets=9))) == {(1, 2), (1, 3), (2, 2)}


def test_only_clicks_on_items_of_the_training_days_are_asked_for():
    log = events([(1, 1, 7), (1, 2, 8), (1, 3, 99), (1, 4, 9)])
    clicks = np.array([True, False, True, True])
    found = by_request(requests(log, min_history=1, targets=9, clicks=clicks))
    assert set(found) == {(1, 4)}


def test_a_portion_of_the_users_gets_what_it_gets_among_all():
    log = random_events()
    whole, part = requests(log), requests(log[log["user"] >= 120])
    assert np.array_equal(whole[whole["user"] >= 120], part)


def test_seeds_choose_others():
    log = random_events()
    first, second = set(by_request(requests(log))), set(by_request(requests(log, seed=1)))
    assert first != second
    assert np.array_equal(requests(log), requests(log))


def test_the_order_of_the_rows_tells_nothing_of_the_label():
    chosen = requests(random_events())
    assert chosen.dtype == CHOSEN
    keys = [tuple(row)[:3] for row in chosen.tolist()]
    assert keys == sorted(keys)


def test_items_are_drawn_in_proportion_to_their_clicks():
    log = random_events(users=3000, each=10, items=20)
    drawn = requests(log, catalogue(20), negatives=1, min_history=1, targets=5)
    denied = drawn["item"][drawn["clicked"] == 0]
    share = np.bincount(denied, minlength=20) / len(denied)
    wanted = np.arange(1, 21) / 210
    assert len(denied) > 15_000
    assert abs(share - wanted).max() < 5 * (0.1 / len(denied)) ** 0.5


def test_where_few_items_are_left_all_of_them_are_found():
    """One item has nearly all the clicks: drawing by chance would hardly ever meet the others."""
    weight = np.array([10**12, 1, 1, 1, 1], dtype=np.int64)
    items = Items(np.arange(5, dtype=np.uint32), weight)
    log = events([(1, 1, 0), (1, 2, 0)])
    (rows,) = by_request(requests(log, items, min_history=1, negatives=4)).values()
    assert rows == [(0, 1), (1, 0), (2, 0), (3, 0), (4, 0)]
    (rows,) = by_request(requests(log, items, min_history=1, negatives=9)).values()
    assert len(rows) == 5


@pytest.mark.parametrize("log", [events([]), events([(1, 1, 7)])], ids=["no events", "no history"])
def test_nothing_to_ask_is_no_rows(log):
    assert len(requests(log)) == 0
