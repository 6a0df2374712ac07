"""The routes for machines and people beside `/score`."""

import re

import pytest


def test_the_process_says_that_it_lives(served):
    assert served.get("/livez").json == {"alive": True}


def test_readiness_names_what_is_served_and_the_store(served, offline):
    manifest = offline.bundle.manifest
    assert served.get("/readyz").json == {
        "ready": True,
        "model": {
            "name": manifest.name,
            "version": manifest.version,
            "hard_routing": False,
            "tolerance": 1e-4,
            "farthest": 1e-4,
        },
        "slots": {"champion": {"name": manifest.name, "version": manifest.version}},
        "store": {"up": True, "layout": 1},
    }


def test_the_root_points_the_way(served):
    root = served.get("/").json
    assert (root["service"], root["ready"], root["score"], root["docs"]) == (
        "Longsight",
        True,
        "/score",
        "/docs",
    )


def test_metrics_are_in_the_text_format_and_count_this_request(served):
    before = served.metric("longsight_requests_total", route="/livez", code="200")
    served.get("/livez")
    answer = served.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert served.metric("longsight_requests_total", route="/livez", code="200") == before + 1
    assert served.metric("process_resident_memory_bytes") > 1e7


def test_a_scored_request_is_seen_in_every_metric_it_concerns(served, offline):
    names = [
        ("longsight_requests_total", {"route": "/score", "code": "200"}),
        ("longsight_request_seconds_count", {"route": "/score"}),
        ("longsight_batch_requests_count", {}),
        ("longsight_batch_candidates_sum", {}),
        ("longsight_padding_ratio_count", {}),
        ("longsight_history_total", {"status": "hit"}),
        ("longsight_history_length_count", {}),
        ("longsight_history_age_seconds_count", {}),
        ("longsight_history_extended_total", {}),
        ("longsight_unknown_ads_total", {}),
        ("longsight_score_count", {}),
        ("longsight_oov_total", {"field": "ad.ad_id"}),
        ("longsight_missing_total", {"field": "ad.category"}),
        ("longsight_missing_total", {"field": "context.placement"}),
    ]
    names += [
        ("longsight_stage_seconds_count", {"stage": stage})
        for stage in ("parse", "history", "encode", "queue", "infer", "respond")
    ]
    before = {(name, *labels.items()): served.metric(name, **labels) for name, labels in names}
    # long before the newest events, so that the first read is not enough; one known and one unknown ad
    moment = int(offline.history(offline.busiest)["timestamp"][13])
    body = {"user_id": offline.busiest, "candidates": ["101", "unheard-of"], "timestamp": moment}
    assert served.score(body).status == 200
    unchanged = [
        name for name, labels in names if served.metric(name, **labels) <= before[(name, *labels.items())]
    ]
    assert unchanged == []


def test_gauges_describe_the_service(served, offline):
    manifest = offline.bundle.manifest
    labels = {"slot": "champion", "name": manifest.name, "version": manifest.version}
    assert served.metric("longsight_model_info", **labels) == 1
    assert served.metric("longsight_redis_up") == 1
    assert served.metric("longsight_redis_breaker_open") == 0


def test_routes_in_metrics_are_a_closed_set(served):
    for path in ("/a", "/b/c", "/score/x"):
        served.get(path)
    text = served.get("/metrics").data.decode()
    routes = set(re.findall(r'requests_total\{code="\d+",route="([^"]+)"', text))
    assert routes <= {"/score", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/", "other"}


def test_the_documentation_loads_nothing_from_elsewhere(served):
    answer = served.get("/docs")
    page = answer.data.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "POST</span> /score" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="?(https?:)?//', page)


def test_the_documented_body_is_the_one_that_is_checked(served):
    document = served.get("/openapi.json").json
    operation = document["paths"]["/score"]["post"]
    media = operation["requestBody"]["content"]["application/json"]
    assert served.score(media["example"]).status == 200
    assert set(media["schema"]["properties"]["context"]["properties"]) == {"placement", "hour", "position"}
    assert media["schema"]["additionalProperties"] is False
    assert "application/msgpack" in operation["requestBody"]["content"]
    assert {"200", "400", "404", "413", "422", "429", "503", "504"} == set(operation["responses"])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/", "/nothing"])
def test_every_answer_carries_a_request_id(served, path):
    answer = served.ask("GET", path, headers={"X-Request-Id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
