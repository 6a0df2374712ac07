"""Every path, port, variable and volume that a container file names exists and fits the others."""

import os
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
import typer.main
import yaml

from cli.demo import TRAINING
from cli.main import build_app
from service.settings import load_settings
from tests.containers.files import (
    COMPOSE,
    DOCKERFILES,
    PACKAGES,
    REPOSITORY,
    compose,
    dockerfile_of,
    parse_dockerfile,
)

SERVICES = compose()["services"]
PROMETHEUS = REPOSITORY / "deploy" / "prometheus.yml"
KNOWN = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "WORKDIR",
}
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.stem)
def dockerfile(request):
    return parse_dockerfile(request.param)


def ignored(source: str) -> bool:
    """Whether .dockerignore keeps `source` from the builder (the last rule that matches wins)."""
    result = False
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        rule = line.strip().removeprefix("!")
        if rule and not rule.startswith("#") and (fnmatch(source, rule) or source.startswith(f"{rule}/")):
            result = not line.startswith("!")
    return result


def test_dockerfile_holds_only_known_instructions(dockerfile):
    assert {name for name, _ in dockerfile.instructions} <= KNOWN
    assert re.fullmatch(r"python:3\.\d+-slim", dockerfile.one("FROM"))


def test_dockerfile_copies_what_exists_and_is_sent_to_the_builder(dockerfile):
    for sources, _ in dockerfile.copies():
        for source in sources:
            assert (REPOSITORY / source).exists(), source
            assert not ignored(source), source


def test_dockerignore_keeps_the_rest_out():
    for name in (".venv", ".longsight", ".git", "tests", "docs"):
        assert ignored(name), name


def test_dockerfile_ends_as_somebody_who_is_not_root(dockerfile):
    names = [name for name, _ in dockerfile.instructions]
    assert dockerfile.one("USER") == "longsight"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in {"RUN", "COPY"})


def test_dockerfile_installs_extras_that_exist_from_the_pins(dockerfile):
    assert set(dockerfile.extra()) <= set(EXTRAS)
    assert "--constraint constraints.txt" in " ".join(dockerfile.values("RUN"))


def test_the_service_image_holds_three_packages():
    copied = {
        source
        for sources, _ in parse_dockerfile(REPOSITORY / "docker/service.Dockerfile").copies()
        for source in sources
    }
    assert copied & set(PACKAGES) == {"cli", "contract", "service"}


def test_the_gpu_extra_differs_in_onnxruntime_alone():
    cpu, gpu = set(EXTRAS["serve"]), set(EXTRAS["serve-gpu"])
    assert {re.split(r"[>=\[]", line)[0] for line in cpu ^ gpu} == {"onnxruntime", "onnxruntime-gpu"}


def test_every_pinned_package_fits_what_pyproject_allows():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] + [line for extra in EXTRAS.values() for line in extra]:
        requirement = Requirement(line)
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), line
    assert pins["torch"] == "2.13.0"


def test_every_variable_of_the_compose_file_has_a_default():
    uncommented = re.sub(r"#.*", "", COMPOSE.read_text())
    assert not re.findall(r"\$\{\w+\}|\$\w", uncommented)


@pytest.mark.parametrize("name", SERVICES)
def test_compose_service_is_built_or_pulled_by_a_pinned_name(name):
    service = SERVICES[name]
    if "build" in service:
        assert (REPOSITORY / service["build"]["context"]).resolve() == REPOSITORY
        dockerfile = dockerfile_of(service)
        declared = {value.partition("=")[0] for value in dockerfile.values("ARG")}
        assert set(service["build"].get("args", {})) <= declared
        assert service["build"].get("args", {}).get("EXTRA", "serve") in EXTRAS
    else:
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+(\.\d+)?", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_compose_volumes_and_mounts_exist(name):
    volumes = compose()["volumes"]
    for mount in SERVICES[name].get("volumes", []):
        source, target, *_ = mount.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (REPOSITORY / source).is_file()
        else:
            assert source in volumes


def test_no_volume_is_declared_in_vain():
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert set(compose()["volumes"]) <= used


def test_ports_are_on_loopback_distinct_and_exposed():
    taken = []
    for service in SERVICES.values():
        dockerfile = dockerfile_of(service)
        for port in service.get("ports", []):
            address, outside, inside = port.split(":")
            assert address == "127.0.0.1"
            taken.append(outside)
            if dockerfile:
                assert inside in dockerfile.values("EXPOSE")
    assert len(taken) == len(set(taken))


def test_what_a_service_waits_for_can_come_true():
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            other = SERVICES[name]
            if wanted["condition"] == "service_healthy":
                dockerfile = dockerfile_of(other)
                assert "healthcheck" in other or (dockerfile and dockerfile.health_command())
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert other["restart"] == "no"


def test_the_service_waits_for_the_store_and_for_the_bundle():
    assert set(SERVICES["service"]["depends_on"]) == {"redis", "prepare-demo"}
    assert "--appendonly" in SERVICES["redis"]["command"]


@pytest.mark.parametrize("name", ["service", "service-gpu"])
def test_the_settings_of_the_service_are_accepted(name):
    service = SERVICES[name]
    dockerfile = dockerfile_of(service)
    declared = {**dockerfile.environment(), **service["environment"]}
    settings = load_settings(environ={name: str(value) for name, value in declared.items()})
    assert settings.server.host == "0.0.0.0"
    assert [str(settings.server.port)] == dockerfile.values("EXPOSE")
    assert settings.redis.url == "redis://redis:6379/0"
    assert settings.runtime.device == ("cuda" if name == "service-gpu" else "cpu")


def test_the_bundle_is_served_from_where_it_is_written():
    written = SERVICES["prepare-demo"]["environment"]["BUNDLE"]
    assert SERVICES["service"]["environment"]["LONGSIGHT_BUNDLE__PATH"] == written
    folder = written.rpartition("/")[0]
    assert f"bundles:{folder}" in SERVICES["prepare-demo"]["volumes"]
    assert f"bundles:{folder}:ro" in SERVICES["service"]["volumes"]


def test_profiles_keep_the_gpu_and_the_traffic_out_of_the_default():
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "service-gpu": ["gpu"],
        "loadtest": ["loadtest"],
    }
    (device,) = SERVICES["service-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_the_service_has_time_to_drain_before_it_is_killed():
    server = load_settings(environ={}).server
    grace_s = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > server.drain_delay_s + server.drain_timeout_s


def test_the_script_reads_the_variables_that_its_image_sets():
    script = (REPOSITORY / "docker/prepare-demo.sh").read_text()
    read = set(re.findall(r"\$([A-Z_]+)", script))
    image = parse_dockerfile(REPOSITORY / "docker/prepare-demo.Dockerfile").environment()
    assert set(image) - {"ORT_DISABLE_TELEMETRY"} == read
    assert set(SERVICES["prepare-demo"]["environment"]) <= read


def test_the_script_trains_like_the_demo():
    script = (REPOSITORY / "docker/prepare-demo.sh").read_text()
    told = dict(re.findall(r'(\w+)\) TRAIN_FLAGS="(.+)" ;;', script))
    assert told == {
        model: " ".join(f"--set {setting}" for setting in settings)
        for model, settings in TRAINING.items()
        if settings
    }


def longsight_commands():
    """Every `longsight ...` of the Dockerfiles, of the script and of the compose file, variables filled in."""
    image = parse_dockerfile(REPOSITORY / "docker/prepare-demo.Dockerfile").environment()
    script = (REPOSITORY / "docker/prepare-demo.sh").read_text().replace("\\\n", " ")
    script = re.sub(r"^\s*#.*\n", "", script, flags=re.MULTILINE)
    for line in re.findall(r"longsight (.+)", script):
        filled = re.sub(r"\$([A-Z_]+)", lambda match: image[match[1]], line)
        yield filled.replace('"', "").split()
    service = parse_dockerfile(REPOSITORY / "docker/service.Dockerfile")
    assert service.exec_form("ENTRYPOINT") == ["longsight"]
    yield service.exec_form("CMD")


@pytest.mark.parametrize("words", list(longsight_commands()), ids=lambda words: words[0])
def test_the_commands_in_containers_are_commands_of_the_program(words):
    command = typer.main.get_command(build_app())
    words = list(words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("longsight", words)


def test_prometheus_asks_the_services_where_they_answer():
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    (source,) = job["dns_sd_configs"]
    assert set(source["names"]) == {"service", "service-gpu"} <= set(SERVICES)
    assert [str(source["port"])] == parse_dockerfile(REPOSITORY / "docker/service.Dockerfile").values(
        "EXPOSE"
    )
    assert (
        f"./deploy/{PROMETHEUS.name}:/etc/prometheus/prometheus.yml:ro" in SERVICES["prometheus"]["volumes"]
    )


def test_promtool_accepts_the_configuration_of_prometheus():
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is missing: .ci/run installs it"
        pytest.skip("promtool is not installed (Debian package prometheus)")
    checked = subprocess.run(
        [promtool, "check", "config", PROMETHEUS], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
