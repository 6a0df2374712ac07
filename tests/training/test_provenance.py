"""Where a run says it comes from."""

import subprocess
from pathlib import Path

import pytest

from training import provenance


def _git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    ended = subprocess.run(["git", "-C", folder, *who, *command], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_the_revision_is_that_of_our_own_checkout_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "lib" / "provenance.py"
    ours.parent.mkdir()
    ours.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(ours))
    _git(tmp_path, "init")
    _git(tmp_path, "commit", "--allow-empty", "-m", "of somebody else")

    def revision() -> object:
        return provenance.provenance(seed=0, dataset_fingerprint="")["git_revision"]

    assert revision() is None
    _git(tmp_path, "add", "lib")
    _git(tmp_path, "commit", "-m", "ours")
    assert revision() == _git(tmp_path, "rev-parse", "HEAD")
