from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram

from service.metrics import Metrics, metric_names
from service.tally import MOST_WAITING, ArrayHistogram, TallyCounter, TallyGauge

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
DESIGNED = {
    "requests_total",
    "request_seconds",
    "stage_seconds",
    "batch_requests",
    "batch_candidates",
    "padding_ratio",
    "queue_candidates",
    "shed_total",
    "history_total",
    "history_length",
    "history_age_seconds",
    "history_extended_total",
    "unknown_ads_total",
    "oov_total",
    "score",
    "model_info",
    "redis_up",
    "redis_breaker_open",
}


@pytest.mark.parametrize("name", metric_names())
def test_metric_is_documented(name):
    assert f"| `{name}" in DOCS.read_text(), f"docs/operations.md must have a row for {name}"


def test_no_metric_is_documented_that_does_not_exist():
    rows = [line.split("`")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `longsight_")]
    assert sorted(row.partition("{")[0] for row in rows) == metric_names()


def test_the_metrics_of_the_design_are_there():
    assert {f"longsight_{name}" for name in DESIGNED} <= set(metric_names())


def test_counting_an_array_is_counting_its_values():
    registry = CollectorRegistry()
    edges = (0.001, 0.01, 0.1)
    together = ArrayHistogram("together", "x", buckets=edges, registry=registry)
    one_by_one = Histogram("one_by_one", "x", buckets=edges, registry=registry)
    values = np.array([0.0, 0.001, 0.0011, 0.01, 0.05, 0.1, 0.2, 5.0])
    together.observe_many(values)
    for value in values:
        one_by_one.observe(value)
    for edge in ("0.001", "0.01", "0.1", "+Inf"):
        labels = {"le": edge}
        expected = registry.get_sample_value("one_by_one_bucket", labels)
        assert registry.get_sample_value("together_bucket", labels) == expected
    assert registry.get_sample_value("together_sum") == pytest.approx(values.sum())
    assert registry.get_sample_value("together_count") == len(values)


def test_what_was_observed_one_by_one_is_counted_when_it_is_shown():
    registry = CollectorRegistry()
    histogram = ArrayHistogram("seconds", "x", ["stage"], buckets=(0.1, 1.0), registry=registry)
    child = histogram.labels("parse")
    for _ in range(MOST_WAITING + 3):
        child.observe(0.5)
    assert len(child._values) == 3
    assert registry.get_sample_value("seconds_bucket", {"le": "1.0", "stage": "parse"}) == MOST_WAITING + 3
    assert registry.get_sample_value("seconds_bucket", {"le": "0.1", "stage": "parse"}) == 0
    assert registry.get_sample_value("seconds_sum", {"stage": "parse"}) == (MOST_WAITING + 3) / 2
    assert not child._values


def test_counters_and_gauges_tell_what_waits_when_they_are_shown():
    registry = CollectorRegistry()
    answers = TallyCounter("answers", "x", ["code"], registry=registry)
    inside = TallyGauge("inside", "x", registry=registry)
    child = answers.labels("200")
    child.inc()
    child.inc(2)
    inside.set(5)
    inside.set(3)
    assert (child._value.get(), inside._value.get()) == (0, 0)
    assert registry.get_sample_value("answers_total", {"code": "200"}) == 3
    assert registry.get_sample_value("inside") == 3
    child.count()
    assert registry.get_sample_value("answers_total", {"code": "200"}) == 3


def test_series_exist_before_the_first_event_so_that_rates_begin_at_zero():
    metrics = Metrics(CollectorRegistry())
    metrics.bind_fields(["ad.brand"])
    text = metrics.exposition().decode()
    assert 'longsight_shed_total{reason="queue_full"} 0.0' in text
    assert 'longsight_history_total{status="timeout"} 0.0' in text
    assert 'longsight_oov_total{field="ad.brand"} 0.0' in text
    assert 'longsight_stage_seconds_bucket{le="0.0001",stage="parse"} 0.0' in text
