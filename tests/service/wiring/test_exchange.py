"""The folder in which workers agree: what dies or vanishes there harms nobody who lives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import SlotConflictError
from service.wiring import exchange as module
from service.wiring.exchange import Exchange, Proposal, Report, forget_worker
from service.wiring.presence import PREFIX, exchange_folder, present
from service.wiring.slot_file import Held, Ref, SlotState
from tests.support.serving import service
from tests.support.workers import alive, until, workers_of

A = Ref(path=Path("/bundles/a"), name="tin", version="20260101T000000Z-aaaaaa")
STATE = SlotState(given=A.path, generation=1, slots={"champion": Held(bundle=A)})


def proposal(token, owner):
    return Proposal(token=token, owner=owner, slot="champion", state=STATE)


@pytest.fixture
def dead():
    """A process id that nobody has any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_proposal_that_vanishes_while_it_is_looked_at_is_none(tmp_path, monkeypatch):
    exchange, stat = Exchange(tmp_path), Path.stat

    def vanishing(self, **options):
        found = stat(self, **options)
        if self.name == module.PROPOSAL:
            self.unlink()
        return found

    exchange.propose(proposal("t", os.getpid()))
    assert exchange.proposal() == proposal("t", os.getpid())
    exchange.propose(proposal("u", os.getpid()))
    monkeypatch.setattr(Path, "stat", vanishing)
    assert exchange.proposal() is None


def test_a_report_that_vanishes_while_all_are_looked_at_is_left_out(tmp_path, monkeypatch):
    exchange, read = Exchange(tmp_path), Path.read_bytes
    exchange.report(Report(generation=3))
    (tmp_path / "1.json").write_text(Report().model_dump_json())

    def vanishing(self):
        if self.name == "1.json":
            self.unlink()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    assert exchange.reports() == {os.getpid(): Report(generation=3)}


def test_a_proposal_that_comes_while_a_dead_leaders_is_looked_at_stays(tmp_path, monkeypatch, dead):
    ours, theirs = Exchange(tmp_path), Exchange(tmp_path)
    lives = module._lives

    def slowly(pid):
        found = lives(pid)
        if pid == dead:
            theirs.propose(proposal("next", os.getpid()))
        return found

    monkeypatch.setattr(module, "_lives", slowly)
    ours.propose(proposal("first", dead))
    assert ours.proposal() is None
    assert ours.proposal() == proposal("next", os.getpid())


def test_a_dead_leaders_proposal_goes_with_its_report_and_nobody_elses_does(tmp_path, dead):
    exchange = Exchange(tmp_path)
    exchange.propose(proposal("t", os.getpid()))
    forget_worker(tmp_path, dead)
    assert exchange.proposal() == proposal("t", os.getpid())
    (tmp_path / f"{dead}.json").write_text(Report().model_dump_json())
    exchange.propose(proposal("u", dead))
    with exchange.claimed():  # a new leader, about to propose or to withdraw: the file is its own
        forget_worker(tmp_path, dead)
        assert (tmp_path / module.PROPOSAL).exists()
        with pytest.raises(SlotConflictError), exchange.claimed():
            pass
    forget_worker(tmp_path, dead)
    assert not (tmp_path / module.PROPOSAL).exists()
    assert exchange.reports() == {}


def test_folders_whose_services_are_gone_are_removed_and_those_of_the_living_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone, ending = tmp_path / f"{PREFIX}gone", tmp_path / f"{PREFIX}ending"
    for folder in (gone, ending):
        (folder / "metrics").mkdir(parents=True)
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    with present(ending), exchange_folder() as first, exchange_folder() as second:
        assert {path.name for path in tmp_path.iterdir() if not path.is_symlink()} == {
            ending.name,
            first.name,
            second.name,
        }
    assert [path for path in tmp_path.iterdir() if not path.is_symlink()] == [ending]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_a_killed_service_leaves_goes_when_the_next_one_starts(house, tmp_path, workers):
    def folders():
        return set(tmp_path.iterdir())

    settings = {"TMPDIR": str(tmp_path), "LONGSIGHT_MODELS__STATE_DIR": str(tmp_path.parent / "state")}
    with (
        service(house.bundle, house.redis, "--workers", workers, **settings) as killed,
        service(house.bundle, house.redis, **settings) as living,
    ):
        killed.wait()
        living.wait()
        both, processes = folders(), workers_of(killed)
        assert len(both) == 2
        killed.end(signal.SIGKILL)
        until(lambda: not alive(processes))
        assert folders() == both
        with service(house.bundle, house.redis, "--workers", workers, **settings) as third:
            third.wait()
            left = folders() & both
            assert len(left) == 1
            assert len(folders()) == 2
            assert third.end() == 0
        assert folders() == left
        assert living.end() == 0
    assert folders() == set()
