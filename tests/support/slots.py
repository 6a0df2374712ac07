"""Bundles to put into slots, and how tests ask for it."""

import http.client
import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.support.forgery import forge
from tests.support.tiny import tiny_bundle
from tests.support.workers import workers_of

TOKEN = "a token, not short"
BODY = {"user_id": "5", "candidates": [str(100 + index) for index in range(25)], "timestamp": 1_508_000_000}
VERSIONS = {"a": "20260101T000000Z-aaaaaa", "b": "20260202T000000Z-bbbbbb", "c": "20260303T000000Z-cccccc"}


def some_bundles(root):
    """Three bundles: `a` and `c` are tin, `b` is mean_pool; and what is no good one."""
    root.mkdir()
    for name, model in (("a", "tin"), ("b", "mean_pool"), ("c", "tin")):
        made = tiny_bundle(root.parent / name, model)
        shutil.move(made, root / name)
        forge(root / name, lambda data, name=name: data.update(version=VERSIONS[name]))
    damaged = shutil.copytree(root / "b", root / "damaged")
    (damaged / "model.onnx").write_bytes(b"\x00" + (damaged / "model.onnx").read_bytes()[1:])
    liar = shutil.copytree(root / "b", root / "liar")
    scores = np.load(liar / "golden" / "scores.npy")
    np.save(liar / "golden" / "scores.npy", scores + np.float32(0.01))
    forge(liar)
    shutil.copytree(root / "b", root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    (root / "current").symlink_to(root / "b")
    return root


def change(started, slot, bundle, *, token=TOKEN, **more):
    body = json.dumps({"bundle": bundle, **more})
    return started.ask("POST", f"/models/{slot}", body, {"Authorization": f"Bearer {token}"})


def roll_back(started, slot):
    return started.ask("POST", f"/models/{slot}/rollback", None, {"Authorization": f"Bearer {TOKEN}"})


def slots(answer):
    return {row["slot"]: row for row in answer.json["slots"]}


def answered_by(started, **more):
    answer = started.score({**BODY, **more})
    assert answer.status == 200, answer.data
    return answer.json["version"]


class Callers:
    """Ask on kept-alive connections again and again; every answer is held to what its version must say."""

    def __init__(self, started, expected, callers=4):
        self.versions = Counter()
        self.failed = []
        self.mixed = []
        self._port, self._expected = started.port, expected
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self._futures = [self._pool.submit(self._ask) for _ in range(callers)]

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._over.is_set():
            connection.request("POST", "/score", json.dumps(BODY))
            answer = connection.getresponse()
            content = json.loads(answer.read())
            if answer.status != 200 or content["history"]["status"] != "hit":
                self.failed.append(content)
                continue
            self.versions[content["version"]] += 1
            if not np.allclose(content["scores"], self._expected[content["version"]], rtol=1e-5):
                self.mixed.append(content)
        connection.close()

    def end(self):
        self._over.set()
        for future in self._futures:
            future.result(40)
        self._pool.shutdown()


def open_files(started):
    """Names of the files that the workers have open."""
    return {Path(file.path).name for worker in workers_of(started) for file in worker.open_files()}
