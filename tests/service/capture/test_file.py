"""Only whole lines, in files of bounded size and number, whatever happens to the disk or the process."""

import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest

from service.capture.file import CaptureFile
from service.capture.record import HEAD, CaptureError
from tests.support.serving import ROOT


def line(number, size=100):
    begin = HEAD + b'"n":%d,"pad":"' % number
    return begin + b"x" * (size - len(begin) - 3) + b'"}\n'


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def numbers(path):
    return [int(each.split(b'"n":')[1].split(b",")[0]) for each in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "down" / "capture.jsonl"


def test_the_oldest_file_goes_and_none_is_larger_than_allowed(path):
    file = CaptureFile(path, max_bytes=1000, files=3)
    for number in range(35):
        file.append(line(number))
    file.close()
    assert names(path.parent) == ["capture.jsonl", "capture.jsonl.1", "capture.jsonl.2"]
    assert numbers(path) == list(range(30, 35))
    assert numbers(path.with_name("capture.jsonl.1")) == list(range(20, 30))
    assert numbers(path.with_name("capture.jsonl.2")) == list(range(10, 20))


def test_a_line_larger_than_a_file_has_one_of_its_own(path):
    file = CaptureFile(path, max_bytes=1000, files=3)
    for number, size in enumerate((100, 5000, 100)):
        file.append(line(number, size))
    file.close()
    assert [numbers(each) for each in sorted(path.parent.glob("capture*"))] == [[2], [1], [0]]


def test_nobody_else_may_read_it(path):
    path.parent.mkdir(parents=True)
    path.touch(mode=0o666)
    file = CaptureFile(path, max_bytes=150, files=2)
    file.append(line(0))
    file.append(line(1))
    file.close()
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}
    assert names(path.parent) == ["capture.jsonl", "capture.jsonl.1"]


def test_several_processes_have_a_file_each_and_a_restart_takes_the_first_that_is_free(path):
    first, second = (CaptureFile(path, max_bytes=1000, files=2) for _ in range(2))
    third = CaptureFile(path, max_bytes=1000, files=2)
    assert [each.path.name for each in (first, second, third)] == [
        "capture.jsonl",
        "capture-2.jsonl",
        "capture-3.jsonl",
    ]
    second.append(line(1))
    second.close()
    again = CaptureFile(path, max_bytes=1000, files=2)
    again.append(line(2))
    assert again.path.name == "capture-2.jsonl"
    assert numbers(again.path) == [1, 2]
    for each in (first, third, again):
        each.close()


def test_a_rotation_leaves_the_lock_with_its_owner(path):
    first = CaptureFile(path, max_bytes=150, files=2)
    first.append(line(0))
    first.append(line(1))
    second = CaptureFile(path, max_bytes=150, files=2)
    assert second.path.name == "capture-2.jsonl"
    first.close()
    second.close()


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("cut", [5, 70, 200_000], ids=["in its head", "in the middle", "long"])
def test_a_line_that_a_crash_cut_is_removed_at_the_next_start(path, kept, cut):
    path.parent.mkdir(parents=True)
    whole = b"".join(line(number) for number in range(kept))
    path.write_bytes(whole + line(9, cut + 50)[:cut])
    file = CaptureFile(path, max_bytes=1 << 20, files=2)
    file.append(line(10))
    file.close()
    assert path.read_bytes() == whole + line(10)


@pytest.mark.parametrize("content", [b"root:x:0:0\n", b'{"capture":2,"at"', b'{"user_id"', b"\n"])
def test_a_file_of_something_else_is_neither_cut_nor_appended_to(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(CaptureError, match="holds something other than captured requests"):
        CaptureFile(path, max_bytes=1000, files=2)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file" / "c.jsonl", tmp_path):
        with pytest.raises(CaptureError, match=r"can't be written: .*; give another place"):
            CaptureFile(wrong, max_bytes=1000, files=2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptureError, match="no regular file"):
        CaptureFile(tmp_path / "pipe", max_bytes=1000, files=2)


def test_a_file_that_was_moved_away_or_removed_is_begun_anew(path):
    file = CaptureFile(path, max_bytes=1 << 20, files=2)
    file.append(line(0))
    path.rename(path.with_name("taken.jsonl"))
    file.append(line(1))
    assert numbers(path) == [1]
    path.unlink()
    file.append(line(2))
    file.close()
    assert numbers(path) == [2]
    assert numbers(path.with_name("taken.jsonl")) == [0]


def test_a_folder_that_was_removed_is_an_error_until_it_is_back(path):
    file = CaptureFile(path, max_bytes=1 << 20, files=2)
    file.append(line(0))
    path.unlink()
    path.with_name(".capture.jsonl.lock").unlink()
    path.parent.rmdir()
    with pytest.raises(OSError, match="No such file"):
        file.append(line(1))
    path.parent.mkdir()
    file.append(line(2))
    file.close()
    assert numbers(path) == [2]


def test_lines_that_do_not_fit_on_the_disk_leave_no_half_line(path):
    file = CaptureFile(path, max_bytes=1 << 20, files=2)
    file.append(line(0))
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, usual[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            file.append(line(1) + line(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert numbers(path) == [0]
    file.append(line(3))
    file.close()
    assert path.read_bytes() == line(0) + line(3)


def test_a_killed_process_leaves_whole_lines_and_its_lock(path):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from service.capture.file import CaptureFile
        from service.capture.record import HEAD
        file = CaptureFile(Path(sys.argv[1]), max_bytes=1 << 20, files=4)
        print("ready", flush=True)
        while True:
            file.append((HEAD + b'"n":1,"pad":"' + b"x" * 3000 + b'"}\\n') * 20)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        while not path.with_name("capture.jsonl.2").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    for rotated in path.parent.glob("capture.jsonl.*"):
        assert rotated.read_bytes().endswith(b'"}\n')
    file = CaptureFile(path, max_bytes=1 << 30, files=4)
    assert file.path == path
    file.append(line(7))
    file.close()
    assert set(numbers(path)) == {1, 7} or numbers(path) == [7]
