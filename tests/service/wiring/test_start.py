"""Becoming ready, or saying why not: one line, the right exit code."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.schema import Schema
from service.history.writer import claim_layout
from tests.support.forgery import forge
from tests.support.serving import ROOT, free_port, service

RSS_LIMIT_BYTES = 400 << 20
READY_LIMIT_S = 5.0
NO_STORE = "redis://127.0.0.1:1/0"


def serve_and_fail(bundle, *arguments, redis=NO_STORE):
    """Run `serve` until it gives up; returns exit code and the last line of its output."""
    with service(bundle, redis, *arguments) as started:
        code = started.process.wait(40)
        return code, started.output().strip().splitlines()


def test_ready_soon_small_and_without_torch(house):
    began = time.perf_counter()
    with service(house.bundle, house.redis) as started:
        started.wait()
        seconds = time.perf_counter() - began
        started.score({"user_id": "5", "candidates": ["101"], "timestamp": 1_508_000_000})
        rss = started.metric("process_resident_memory_bytes")
        assert "torch" not in Path(f"/proc/{started.process.pid}/maps").read_text()
    assert rss < RSS_LIMIT_BYTES
    assert seconds < READY_LIMIT_S * 4, (
        "the bar is 5 s on a quiet machine; benchmarks/service_process.py holds it"
    )


def test_the_service_imports_neither_torch_nor_training_nor_export():
    code = (
        "import sys, service.wiring, service.wiring.worker, service.wiring.child\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "sys.exit(' '.join(loaded & {'torch', 'training', 'export', 'polars', 'pandas', 'onnx', 'pyarrow'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_while_it_starts_it_lives_and_says_that_it_is_not_ready(house):
    with service(house.bundle, NO_STORE, LONGSIGHT_REDIS__WAIT_S="3") as started:
        started.wait(status=503)
        assert started.get("/livez").status == 200
        assert "starting" in started.get("/readyz").json["reason"]
        answer = started.score({"user_id": "5", "candidates": ["101"]})
        assert (answer.status, answer.json["type"]) == (503, "urn:longsight:not-ready")


def test_without_a_store_it_is_ready_after_a_while_and_answers_degraded(house):
    with service(house.bundle, NO_STORE, LONGSIGHT_REDIS__WAIT_S="0.2") as started:
        started.wait()
        answer = started.score({"user_id": "5", "candidates": ["101", "102"]})
        assert answer.status == 200
        assert answer.json["history"] == {"status": "unavailable", "length": 0, "newest_age_s": None}
        assert answer.json["unknown_ads"] == 2
        assert started.get("/readyz").json["store"]["up"] is False
        assert started.metric("longsight_redis_up") == 0


def test_a_store_that_is_required_is_waited_for_until_it_comes(house, own_server):
    url = own_server.url
    own_server.stop()
    settings = {"LONGSIGHT_REDIS__WAIT_S": "0.1", "LONGSIGHT_REDIS__REQUIRE_STORE": "true"}
    with service(house.bundle, url, **settings) as started:
        started.wait(status=503)
        time.sleep(1.5)
        assert started.get("/readyz").json["reason"] == "starting: waiting for the store"
        own_server.start()
        started.wait()


def test_an_empty_store_is_ready_and_a_load_needs_no_restart(house, own_server, tmp_path):
    from service.history.load import load
    from tests.support.tiny import tiny_log

    body = {"user_id": "5", "candidates": ["101"], "timestamp": 1_508_000_000}
    with service(house.bundle, own_server.url) as started:
        started.wait()
        assert started.score(body).json["history"]["status"] == "empty"
        assert started.score(body).json["unknown_ads"] == 1
        load(tiny_log(tmp_path), redis_url=own_server.url)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            answer = started.score(body).json
            if answer["history"]["status"] == "hit" and answer["unknown_ads"] == 0:
                return
            time.sleep(0.1)
        pytest.fail(f"the load was never seen: {answer}")


def test_a_store_of_another_schema_keeps_it_not_ready_with_the_reason(house, own_server):
    foreign = Schema.from_json(
        {
            "vocabularies": {"x": {"kind": "hashed", "rows": 4}},
            "behavior": [{"name": "song", "type": "categorical", "vocabulary": "x"}],
            "ad": [{"name": "ad_id", "type": "categorical", "vocabulary": "x"}],
        }
    )
    claim_layout(own_server.client, foreign)
    with service(house.bundle, own_server.url) as started:
        started.wait(status=503)
        end = time.monotonic() + 20
        while "layout" not in started.get("/readyz").json["reason"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        answer = started.score({"user_id": "5", "candidates": ["101"]})
        assert answer.status == 503
        assert "none of them this bundle's" in answer.json["detail"]


def test_embedded_brings_its_own_store(house, tmp_path):
    from service.history.load import load
    from tests.support.tiny import tiny_log

    load(tiny_log(tmp_path), embedded_dir=tmp_path / "valkey")
    port = free_port()
    command = [sys.executable, "-m", "cli", "serve", str(house.bundle), "--port", str(port)]
    options = ["--embedded", "--embedded-dir", str(tmp_path / "valkey")]
    with service(house.bundle, house.redis) as asking:  # only to speak HTTP
        process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL)
        asking.end()
        asking.port, asking.process = port, process
        asking.wait()
        body = {"user_id": "5", "candidates": ["101"], "timestamp": 1_508_000_000}
        assert asking.score(body).json["history"]["status"] == "hit"
        assert asking.end() == 0


def test_a_taken_port_is_one_clear_line(house):
    with service(house.bundle, house.redis) as first:
        first.wait()
        command = [sys.executable, "-m", "cli", "serve", str(house.bundle), "--port", str(first.port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"error: port {first.port} on 127.0.0.1 is in use; end the program that holds it, or choose another with --port"
    ]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_damaged_bundle_ends_it_with_the_file(house, tmp_path, workers):
    bundle = shutil.copytree(house.bundle, tmp_path / "damaged")
    weights = bundle / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    code, lines = serve_and_fail(bundle, "--workers", workers)
    assert code == 2
    assert lines[-1].startswith("error: ")
    assert "model.onnx.data: damaged" in lines[-1]
    assert "Traceback" not in "\n".join(lines)


def test_a_bundle_whose_scores_do_not_hold_ends_it(house, tmp_path):
    import numpy as np

    bundle = shutil.copytree(house.bundle, tmp_path / "forged")
    scores = np.load(bundle / "golden" / "scores.npy")
    np.save(bundle / "golden" / "scores.npy", scores + np.float32(0.01))
    forge(bundle)
    code, lines = serve_and_fail(bundle)
    assert code == 2
    assert "golden request 0" in lines[-1]
    assert "more than the tolerance" in lines[-1]


def test_a_folder_that_is_no_bundle_ends_it(tmp_path):
    code, lines = serve_and_fail(tmp_path)
    assert code == 2
    assert "no bundle" in lines[-1]


def test_cuda_that_is_not_there_ends_it_and_is_never_replaced_by_the_cpu(house):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    code, lines = serve_and_fail(house.bundle, "--device", "cuda:0")
    assert code == 2
    assert "device cuda:0" in lines[-1]
    assert "no CUDA provider" in lines[-1]


def test_a_wrong_setting_ends_it_before_anything_is_bound(house):
    with service(house.bundle, NO_STORE, LONGSIGHT_SERVER__PROT="1") as started:
        assert started.process.wait(20) == 2
        assert "LONGSIGHT_SERVER__PROT: no such setting" in started.output()


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (
            "",
            "LONGSIGHT_MODELS__BUNDLE_ROOT: a path can't be empty; leave the setting out for its default, got ''",
        ),
        ("nothing", "models.bundle_root: {root} is not there; name the folder that holds the bundles"),
        ("file", "models.bundle_root: {root} is no folder; name the folder that holds the bundles"),
        ("file/below", "models.bundle_root: {root} is not there; name the folder that holds the bundles"),
    ],
)
def test_a_root_of_bundles_that_is_no_folder_ends_it_before_anything_is_bound(house, tmp_path, root, reason):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / root) if root else ""
    with service(house.bundle, NO_STORE, LONGSIGHT_MODELS__BUNDLE_ROOT=path) as started:
        assert started.process.wait(40) == 2
        assert started.output().strip().splitlines()[-1] == f"error: {reason.format(root=path)}"
        assert "listening" not in started.output()


def test_ended_while_starting_it_leaves_at_once(house):
    with service(house.bundle, NO_STORE) as started:
        started.wait(status=503)
        began = time.monotonic()
        assert started.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10


def test_no_process_is_left_behind(house):
    with service(house.bundle, house.redis, "--workers", "2") as started:
        started.wait()
        session = started.process.pid
        started.end()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, 0)
        pytest.fail("a process of the service's group still runs")
