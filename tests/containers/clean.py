"""A clean environment: a virtual environment that holds what an image would hold, and nothing else.

The libraries are those of the extras and of all they require, linked from the environment the tests run in; ours are
copied from what the Dockerfile copies. Neither network nor Docker is needed.
"""

import re
import shutil
import subprocess
import tomllib
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.containers.files import PACKAGES, REPOSITORY, Dockerfile

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def requirements(extras: list[str]) -> list[str]:
    """What pip is asked for: the core and the extras."""
    return PROJECT["dependencies"] + [
        line for name in extras for line in PROJECT["optional-dependencies"][name]
    ]


def closure(wanted: list[str]) -> dict[str, metadata.Distribution]:
    """The installed distributions that `wanted` needs, directly or through others."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(line) for line in wanted]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        distribution = found.setdefault(name, metadata.distribution(name))
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in distribution.requires or []:
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(needed)
    return found


@dataclass(frozen=True)
class Image:
    """An image acted out: `root` stands for its /, `bin` for where pip puts programs."""

    root: Path
    bin: Path

    def python(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.bin / "python", *words], capture_output=True, text=True, check=False, cwd=self.root
        )


def build(dockerfile: Dockerfile, root: Path) -> Image:
    """Make what `docker build` would make of it."""
    venv.create(root / "venv", with_pip=False, symlinks=True)
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    programs = root / "venv" / "bin"
    for distribution in closure(requirements(dockerfile.extra())).values():
        _link(distribution, site)
        for entry in distribution.entry_points.select(group="console_scripts"):
            _write_program(programs, entry.name, entry.value)
    _copy(dockerfile, root)
    for package in PACKAGES:
        if (root / "app" / package).is_dir():
            shutil.move(root / "app" / package, site / package)
    information = site / f"longsight-{PROJECT['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: longsight\nVersion: {PROJECT['version']}\n"
    )
    for name, value in PROJECT["scripts"].items():
        _write_program(programs, name, value)
    return Image(root, programs)


def _link(distribution: metadata.Distribution, site: Path) -> None:
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in {"..", "__pycache__"}}
    for top in tops:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def _write_program(folder: Path, name: str, value: str) -> None:
    module, _, function = re.sub(r"\s*\[.*\]", "", value).partition(":")
    program = folder / name
    lines = ("import sys", f"from {module} import {function}", f"sys.exit({function}())")
    program.write_text("\n".join([f"#!{folder / 'python'}", *lines, ""]))
    program.chmod(0o755)


def _copy(dockerfile: Dockerfile, root: Path) -> None:
    """Carry out each COPY below `root`, with /app as the working folder."""
    for sources, target in dockerfile.copies():
        place = root / "app" / target if not target.startswith("/") else root / target[1:]
        for source in sources:
            origin = REPOSITORY / source
            into = place / origin.name if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            if origin.is_dir():
                shutil.copytree(origin, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, into)
