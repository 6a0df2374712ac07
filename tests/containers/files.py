"""Reads Dockerfiles and docker-compose.yml as far as this repository uses them."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = sorted((REPOSITORY / "docker").glob("*.Dockerfile"))
COMPOSE = REPOSITORY / "docker-compose.yml"
PACKAGES = ("cli", "contract", "export", "service", "training")


@dataclass(frozen=True)
class Dockerfile:
    """The instructions of one file, in order."""

    path: Path
    instructions: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        return [value for instruction, value in self.instructions if instruction == name]

    def one(self, name: str) -> str:
        (value,) = self.values(name)
        return value

    def exec_form(self, name: str) -> list[str]:
        """The words of an ENTRYPOINT or CMD; [] if there is none."""
        values = self.values(name)
        return json.loads(values[-1]) if values else []

    def health_command(self) -> list[str] | None:
        values = self.values("HEALTHCHECK")
        return json.loads(values[-1].partition("CMD ")[2]) if values else None

    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for value in self.values("ENV") for word in shlex.split(value))

    def copies(self) -> list[tuple[list[str], str]]:
        """(sources, target) of each COPY."""
        return [(words[:-1], words[-1]) for words in map(shlex.split, self.values("COPY"))]

    def extra(self) -> list[str]:
        """The extras that pip installs, build arguments at their defaults."""
        arguments = dict(word.split("=", 1) for word in self.values("ARG") if "=" in word)
        (extras,) = re.findall(r'"\.\[([^\]]+)\]"', " ".join(self.values("RUN")))
        for name, value in arguments.items():
            extras = extras.replace(f"${{{name}}}", value)
        return extras.split(",")


def parse_dockerfile(path: Path) -> Dockerfile:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return Dockerfile(path, tuple((name, value.strip()) for name, _, value in pairs))


def compose() -> dict[str, Any]:
    """The compose file with its variables at their defaults."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", COMPOSE.read_text())
    return yaml.safe_load(text)


def dockerfile_of(service: dict[str, Any]) -> Dockerfile | None:
    return parse_dockerfile(REPOSITORY / service["build"]["dockerfile"]) if "build" in service else None
