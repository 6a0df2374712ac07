"""A bundle of fp16 is served, explained, and held by `replay` to what its export found."""

import json

from cli.main import run as cli
from contract.manifest import Manifest
from export.exporter import export
from tests.support.serving import service
from tests.support.tiny import tiny_log, tiny_run
from training.evaluate import evaluate


def test_it_is_served_explained_and_replayed(house, tmp_path, capsys):
    run, log = tiny_run(tmp_path), tiny_log(tmp_path)
    bundle, predictions = tmp_path / "half", tmp_path / "predictions.parquet"
    export(run, bundle, precision="fp16")
    evaluate(run, predictions=predictions)
    manifest = Manifest.read(bundle)
    with service(bundle, house.redis) as started:
        started.wait()
        said = started.get("/readyz").json["model"]
        assert (said["tolerance"], said["farthest"]) == (
            manifest.tolerance,
            max(manifest.tolerance, manifest.farthest),
        )
        body = {"user_id": "5", "candidates": ["101"], "timestamp": 1_508_000_000, "explain": 3}
        assert started.score(body).json["explanations"][0]
        url = f"http://127.0.0.1:{started.port}"
        code = cli(["replay", str(log), "--url", url, "--predictions", str(predictions), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, found["ok"], found["share_compared"]) == (0, True, 1.0)
    assert (
        1e-4 < found["difference"]["max"] <= said["farthest"]
    )  # an fp32 bundle would be refused for as much
