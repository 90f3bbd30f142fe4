"""The pool as a service, without a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.pool_service import PoolService, Report
from orchestrator.engine.checkpoint import path_of
from orchestrator.engine.pool import Pool
from orchestrator.errors import LedgerError
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.spec import Trial
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.storage.sweep_paths import SweepPaths
from tests.backends.worlds import keys, logged, pool_config, trial
from tests.commands import until


class Asked:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[..., Report], *arguments: Any) -> None:
        self._reports: list[Report] = []
        self._thread = threading.Thread(target=lambda: self._reports.append(call(*arguments)))
        self._thread.daemon = True
        self._thread.start()

    @property
    def pending(self) -> bool:
        return not self._reports

    def report(self) -> Report:
        self._thread.join(30)
        assert self._reports, "no report came"
        return self._reports[0]


@pytest.fixture
def token(tmp_path: Path) -> Iterator[str]:
    with FolderLock(tmp_path) as lease:
        yield lease.token


@pytest.fixture
def service(tmp_path: Path, mini_data: Path, token: str) -> PoolService:
    return PoolService(pool_config(tmp_path, mini_data, token), "cpu", 1)


def train(service: PoolService, one: Trial, *rungs: int) -> Asked:
    return Asked(service.train, one.to_dict(), rungs)


def rows(out: Path) -> dict[str, tuple[str, str, int]]:
    found = Ledger(SweepPaths(out).ledger).results()
    return {row.key: (row.status, row.stopping, row.epochs_run) for row in found}


def test_neighbours_train_to_the_end_with_their_rows_there_before_their_reports(
    service: PoolService, tmp_path: Path, mini_data: Path
) -> None:
    seen: list[bool] = []
    trials = [trial(mini_data, seed) for seed in (1, 2)]

    def ask(one: Trial) -> Report:
        report = service.train(one.to_dict(), ())
        seen.append(one.key in keys(tmp_path))
        return report

    for one, asked in [(one, Asked(ask, one)) for one in trials]:
        report = asked.report()
        assert (report.key, report.status) == (one.key, "ended")
        assert report.result is not None
        assert report.result.key == one.key
        assert rows(tmp_path)[one.key] == ("finished", "", 2)
        assert logged(tmp_path, one.key) == ["started", "recorded"]
        assert not path_of(SweepPaths(tmp_path).checkpoints, one.key).exists()
    assert seen == [True, True]


def test_a_stopped_trial_is_recorded_with_its_rule(
    service: PoolService, tmp_path: Path, mini_data: Path
) -> None:
    one = trial(mini_data)
    report = train(service, one, 1).report()
    assert (report.status, report.epoch) == ("rung", 1)
    assert keys(tmp_path) == frozenset()
    ended = Asked(service.stop, one.key).report()
    assert (ended.key, ended.status) == (one.key, "ended")
    assert ended.result is not None
    assert ended.result.value == report.value
    assert rows(tmp_path) == {one.key: ("stopped", "asha", 1)}
    assert logged(tmp_path, one.key) == ["started", "recorded"]


def test_a_recorded_trial_is_not_run_again(
    service: PoolService, tmp_path: Path, mini_data: Path
) -> None:
    one = trial(mini_data, epochs=1)
    first = train(service, one).report()
    assert first.status == "ended"
    assert train(service, one).report() == first
    assert logged(tmp_path, one.key) == ["started", "recorded"]


def test_a_trial_that_waits_at_its_rung_reports_it_to_the_next_caller(
    service: PoolService, tmp_path: Path, mini_data: Path
) -> None:
    one = trial(mini_data)
    first = train(service, one, 1).report()
    assert train(service, one, 1).report() == first
    assert logged(tmp_path, one.key) == ["started"]
    assert Asked(service.proceed, one.key).report().status == "ended"
    assert rows(tmp_path) == {one.key: ("finished", "", 2)}


def test_the_second_caller_of_a_trial_takes_it_over(
    service: PoolService, tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first caller is most likely dead; it must not hold a thread of the pool for ever."""
    go_on = threading.Event()
    advance = Pool.advance
    monkeypatch.setattr(Pool, "advance", lambda pool: (go_on.wait(20), advance(pool))[1])
    one = trial(mini_data)
    first = train(service, one)
    until(lambda: logged(tmp_path, one.key) == ["started"])
    second = train(service, one)
    go_on.set()
    assert second.report().status == "ended"
    report = first.report()
    assert (report.status, "took the trial over" in report.message) == ("broken", True)
    assert logged(tmp_path, one.key) == ["started", "recorded"]


def test_another_pool_takes_a_waiting_trial_up_at_its_rung(
    service: PoolService, tmp_path: Path, mini_data: Path, token: str
) -> None:
    one = trial(mini_data)
    first = train(service, one, 1).report()
    successor = PoolService(pool_config(tmp_path, mini_data, token), "cpu", 1)
    lost = Asked(successor.stop, one.key).report()
    assert (lost.status, "was reset" in lost.message) == ("broken", True)
    assert keys(tmp_path) == frozenset()
    again = train(successor, one, 1).report()
    assert (again.status, again.epoch) == ("rung", 1)
    assert again.value == pytest.approx(first.value)
    assert Asked(successor.proceed, one.key).report().status == "ended"


def test_a_damaged_checkpoint_is_refused_and_harms_no_neighbour(
    service: PoolService, tmp_path: Path, mini_data: Path
) -> None:
    one, other = trial(mini_data, 1), trial(mini_data, 2)
    damaged = path_of(SweepPaths(tmp_path).checkpoints, one.key)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no tensors")
    neighbour = train(service, other)
    report = train(service, one).report()
    assert report.status == "refused"
    assert str(damaged) in report.message
    assert "delete it" in report.message
    assert neighbour.report().status == "ended"
    assert keys(tmp_path) == {other.key}


def test_a_row_that_cannot_be_written_is_refused(
    service: PoolService, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise LedgerError("no space left on the disk")

    one = trial(mini_data)
    assert train(service, one, 1).report().status == "rung"
    monkeypatch.setattr(Ledger, "append", full)
    report = Asked(service.stop, one.key).report()
    assert (report.status, report.message) == ("refused", "no space left on the disk")
    assert train(service, trial(mini_data, 1)).report().status == "refused"


@pytest.mark.parametrize("place", ["advance", "_enter"])
def test_a_pool_that_breaks_tells_everyone_and_begins_afresh(
    place: str,
    service: PoolService,
    tmp_path: Path,
    mini_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`_enter` leaves a trial half in the pool: it must neither hang nor be taken for running."""
    waiting, one = trial(mini_data, 1), trial(mini_data, 2)
    assert train(service, waiting, 1).report().status == "rung"

    def broken(*_: Any) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Pool, place, broken)
        report = train(service, one).report()
        assert report.status == "broken"
        assert report.message == "RuntimeError: the device is gone"
    lost = Asked(service.proceed, waiting.key).report()
    assert (lost.status, "was reset" in lost.message) == ("broken", True)
    again = [train(service, waiting, 1), train(service, one)]
    assert [asked.report().status for asked in again] == ["rung", "ended"]
    assert keys(tmp_path) == {one.key}


def test_a_pool_that_cannot_start_tells_every_caller(
    tmp_path: Path, mini_data: Path, token: str
) -> None:
    config = pool_config(tmp_path, mini_data, token, weights="f" * 64)
    service = PoolService(config, "cpu", 1)
    asked = [train(service, trial(mini_data, seed)) for seed in (1, 2)]
    asked += [Asked(service.proceed, "unknown"), Asked(service.close, "the end")]
    for each in asked:
        report = each.report()
        assert report.status == "refused"
        assert "copy the same file" in report.message


def test_a_closed_pool_refuses_what_runs_waits_and_comes(
    service: PoolService, tmp_path: Path, mini_data: Path
) -> None:
    waiting, running = trial(mini_data, 1), trial(mini_data, 2, epochs=500)
    assert train(service, waiting, 1).report().status == "rung"
    asked = train(service, running)
    until(lambda: logged(tmp_path, running.key) == ["started"])
    assert asked.pending
    Asked(service.close, "the disk is full").report()
    assert throughput.read(SweepPaths(tmp_path).pools), "written before that is heard"
    later = [train(service, trial(mini_data, 3)), Asked(service.proceed, waiting.key)]
    for each in (asked, *later):
        report = each.report()
        assert (report.status, report.message) == ("refused", "the disk is full")
    assert keys(tmp_path) == frozenset()
