"""Folders and files appear whole under their name, or not at all."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract import files
from contract.errors import InputError
from contract.files import atomic_file, atomic_folder, claimed_folder, sha256_file, write_json_atomic

ROOT = Path(__file__).parents[2]


def fill(target: Path, text: str, *, marker: str | None = "made.json") -> None:
    """Write a folder of two files through `atomic_folder`."""
    with atomic_folder(target, marker=marker, own=("deep",)) as folder:
        (folder / "made.json").write_text("{}")
        (folder / "deep").mkdir()
        (folder / "deep" / "text").write_text(text)


def names(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "out", "one")
    assert (tmp_path / "a" / "out" / "deep" / "text").read_text() == "one"
    assert names(tmp_path / "a") == ["out"]
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    assert (tmp_path / "a" / "out").stat().st_mode == ordinary.stat().st_mode


def test_an_older_folder_of_the_same_kind_is_replaced_whole(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    (tmp_path / "out" / "leftover").write_text("old")
    fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "deep" / "text").read_text() == "two"
    assert names(tmp_path / "out") == ["deep", "made.json"]
    assert names(tmp_path) == ["out"]


def test_without_an_atomic_exchange_the_replacement_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda _first, _second: False)
    fill(tmp_path / "out", "one")
    fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "deep" / "text").read_text() == "two"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("marker", ["made.json", None])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not replaced"):
        fill(tmp_path / "out", "one", marker=marker)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    assert names(tmp_path) == ["out"]


def test_a_folder_kept_inside_is_not_lost_with_the_older_one(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    (tmp_path / "out" / "dataset").mkdir()
    (tmp_path / "out" / "dataset" / "precious").write_text("hours of work")
    with pytest.raises(InputError, match="out holds the folder dataset, which would be lost with it"):
        fill(tmp_path / "out", "two")
    assert (tmp_path / "out" / "dataset" / "precious").read_text() == "hours of work"
    assert (tmp_path / "out" / "deep" / "text").read_text() == "one"
    assert names(tmp_path) == ["out"]


def test_a_file_where_a_folder_above_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match="a folder above it is a file"):
        fill(tmp_path / "notes" / "out", "one")


def test_a_folder_that_became_foreign_meanwhile_is_refused(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "out", marker="made.json"):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis.txt").write_text("mine")

    with pytest.raises(InputError, match="not replaced"):
        write()
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        fill(tmp_path / "out", "one")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_place_where_no_folder_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="can't be written"):
        fill(tmp_path / "file" / "folder", "new")
    assert names(tmp_path) == ["file"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "one", marker=None)
    assert (tmp_path / "out" / "deep" / "text").read_text() == "one"


def test_a_failure_leaves_nothing_and_keeps_the_older_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")

    def interrupted(name: str) -> None:
        with atomic_folder(tmp_path / name, marker="made.json", own=("deep",)) as folder:
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

    for name in ("out", "new"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(name)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "deep" / "text").read_text() == "one"


def killed_writer(target: Path) -> "subprocess.Popen[str]":
    """Start a process that has written half a folder and waits to be killed."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom contract.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), marker='made.json', own=('deep',)) as folder:\n"
        "    (folder / 'made.json').write_text('{}')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def test_a_killed_writer_leaves_nothing_under_the_name_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    with killed_writer(tmp_path / "out") as process:
        process.send_signal(signal.SIGKILL)
    (hidden,) = names(tmp_path)
    assert hidden.startswith(".out.")
    fill(tmp_path / "out", "one")
    assert names(tmp_path) == ["out"]


def test_a_killed_writer_leaves_the_older_folder_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path / "out", "one")
    with killed_writer(tmp_path / "out") as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "out" / "deep" / "text").read_text() == "one"


def test_the_folder_of_a_living_writer_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    with killed_writer(tmp_path / "out") as process:
        fill(tmp_path / "out", "one")
        assert len(names(tmp_path)) == 2
        process.send_signal(signal.SIGKILL)


def test_a_name_with_wildcards_cleans_only_its_own_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".outside.abc.tmp").mkdir()
    (tmp_path / ".out*.abc.tmp").mkdir()
    fill(tmp_path / "out*", "one")
    assert names(tmp_path) == [".outside.abc.tmp", "out*"]


def test_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for target, what in ((tmp_path / "folder", "is a folder"), (tmp_path / "file" / "x", "can't be written")):
        with pytest.raises(InputError, match=what), atomic_file(target):
            pass
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    write_json_atomic(target, {"price": "2 €"})
    before = target.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(target, float("nan"))

    def interrupted() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == before
    assert names(tmp_path) == ["state.json"]


def test_the_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = os.urandom(files.READ_BYTES + 17)
    (tmp_path / "blob").write_bytes(content)
    assert sha256_file(tmp_path / "blob") == hashlib.sha256(content).hexdigest()


def test_a_claimed_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "deep" / "work"
    with claimed_folder(work) as ours:
        assert ours
        (work / "piece").write_text("kept")
        with claimed_folder(work) as theirs:
            assert not theirs
    with claimed_folder(work) as ours:
        assert ours
        assert (work / "piece").read_text() == "kept"


def test_a_folder_that_its_holder_removed_is_claimed_anew(tmp_path: Path) -> None:
    with claimed_folder(tmp_path / "work"):
        (tmp_path / "work").rmdir()
        with claimed_folder(tmp_path / "work") as ours:
            assert ours
            assert (tmp_path / "work").is_dir()


def test_a_folder_that_can_not_be_claimed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "work"):
        with pytest.raises(InputError, match="can't be written"), claimed_folder(place):
            pass
