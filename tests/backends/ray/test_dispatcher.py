"""The states of a trial in the dispatcher, with a search and pools that answer from a list."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.pool_service import Report
from orchestrator.backends.ray.dispatcher import Dispatcher, State
from orchestrator.errors import BackendError, DataError, StorageError
from orchestrator.results.ledger import Ledger
from orchestrator.search.search import Done, Wait
from orchestrator.spec import Trial, TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.backends.worlds import pool_config
from tests.rows import TRIAL, result

RUNG = Report(TRIAL.key, "rung", 3, 0.5)
BROKEN = Report(TRIAL.key, "broken", message="RuntimeError: memory")


def _give(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


class FakeSearch:
    """Answers from a list; an exception in it is raised."""

    def __init__(self, answers: Iterable[Any] = (), rung: Any = "stop") -> None:
        self.answers, self.decision = list(answers), rung
        self.told: list[str] = []
        self.lost: dict[str, str] = {}

    def ask(self) -> Any:
        return _give(self.answers.pop(0))

    def rung(self, key: str, epoch: int, value: float) -> Any:
        return _give(self.decision)

    def tell(self, row: TrialResult) -> None:
        self.told.append(row.key)

    def failed(self, key: str, message: str) -> None:
        if key not in self.told:
            self.lost[key] = message


class FakePools:
    """Room for `in_flight` trials; a trial that is to stop is answered by `stopped`."""

    def __init__(self, in_flight: int = 2, stopped: Report | None = None) -> None:
        self.in_flight, self.stopped = in_flight, stopped
        self.closed = ""

    def poll(self) -> int:
        return self.in_flight

    def stop(self, key: str) -> Report | None:
        return self.stopped

    def close(self, message: str) -> None:
        assert not self.closed, "closed twice"
        self.closed = message


def dispatch(
    out: Path, search: FakeSearch, pools: FakePools | None = None, **options: Any
) -> Dispatcher:
    config = pool_config(out, out, "token")
    return Dispatcher(search, config, pools or FakePools(), **options)  # type: ignore[arg-type]


def running(dispatcher: Dispatcher, trial_id: str = "t1") -> Dispatcher:
    """With one trial that has its trainable."""
    assert isinstance(dispatcher.propose(trial_id), Trial)
    dispatcher.started(trial_id)
    return dispatcher


def state(dispatcher: Dispatcher, trial_id: str = "t1") -> State:
    return dispatcher.trials[trial_id].state


def test_the_states_of_a_trial_that_trains_to_its_end(tmp_path: Path) -> None:
    search = FakeSearch([TRIAL, Wait(), Done()], rung="continue")
    dispatcher = dispatch(tmp_path, search)
    assert dispatcher.propose("t1") == TRIAL
    assert state(dispatcher) is State.PROPOSED
    dispatcher.started("t1")
    assert state(dispatcher) is State.RUNNING
    assert dispatcher.decide("t1", RUNG)
    assert state(dispatcher) is State.RUNNING
    dispatcher.report("t1", Report(TRIAL.key, "ended", result=result()))
    assert state(dispatcher) is State.ENDED
    dispatcher.close_trial("t1")
    assert dispatcher.trials == {}
    assert search.told == [TRIAL.key]
    assert search.lost == {}
    assert isinstance(dispatcher.propose("t2"), Wait)
    assert isinstance(dispatcher.propose("t2"), Done)
    dispatcher.raise_error()


def test_a_trial_that_stops_at_its_rung_is_told_before_tune_hears_of_it(tmp_path: Path) -> None:
    search = FakeSearch([TRIAL])
    pools = FakePools(stopped=Report(TRIAL.key, "ended", result=result()))
    dispatcher = running(dispatch(tmp_path, search, pools))
    assert not dispatcher.decide("t1", RUNG)
    assert state(dispatcher) is State.ENDED
    assert search.told == [TRIAL.key]
    dispatcher.close_trial("t1")
    assert search.told == [TRIAL.key], "once"
    dispatcher.raise_error()


@pytest.mark.parametrize("stopped", [None, BROKEN])
def test_a_trial_whose_pool_is_gone_goes_on_which_brings_it_back_to_its_rung(
    stopped: Report | None, tmp_path: Path
) -> None:
    search = FakeSearch([TRIAL])
    dispatcher = running(dispatch(tmp_path, search, FakePools(stopped=stopped)))
    assert dispatcher.decide("t1", RUNG)
    assert state(dispatcher) is State.RUNNING
    assert not search.told
    assert not search.lost


def test_never_more_in_flight_than_the_pools_have_room_for(tmp_path: Path) -> None:
    trials = [result(seed).trial for seed in range(5)]
    pools = FakePools(in_flight=2)
    dispatcher = dispatch(tmp_path, FakeSearch(trials), pools)
    assert [dispatcher.propose(name) for name in ("t1", "t2")] == trials[:2]
    assert isinstance(dispatcher.propose("t3"), Wait)
    dispatcher.close_trial("t1")
    assert dispatcher.propose("t3") == trials[2]
    assert isinstance(dispatcher.propose("t4"), Wait)
    pools.in_flight = 3
    assert dispatcher.propose("t4") == trials[3]


def test_a_trial_whose_trainable_died_is_looked_up_and_else_lost(tmp_path: Path) -> None:
    search = FakeSearch([TRIAL, result(1).trial])
    dispatcher = running(running(dispatch(tmp_path, search)), "t2")
    Ledger(SweepPaths(tmp_path).ledger).append(result())
    for name in ("t1", "t2"):
        dispatcher.close_trial(name)
    assert search.told == [TRIAL.key]
    assert search.lost == {result(1).key: "its process died"}
    dispatcher.raise_error()


def test_a_broken_trial_is_lost_and_a_refused_one_ends_the_sweep(tmp_path: Path) -> None:
    search, pools = FakeSearch([TRIAL, TRIAL]), FakePools()
    dispatcher = running(dispatch(tmp_path, search, pools))
    dispatcher.report("t1", BROKEN)
    dispatcher.close_trial("t1")
    assert search.lost == {TRIAL.key: "RuntimeError: memory"}
    running(dispatcher, "t2")
    dispatcher.report("t2", Report(TRIAL.key, "refused", message="checkpoint x is damaged"))
    assert isinstance(dispatcher.propose("t3"), Done)
    assert pools.closed == "the sweep ends: checkpoint x is damaged"
    with pytest.raises(BackendError, match=r"^checkpoint x is damaged$"):
        dispatcher.raise_error()


def test_a_result_that_cannot_be_written_at_a_rung_ends_the_sweep(tmp_path: Path) -> None:
    pools = FakePools(stopped=Report(TRIAL.key, "refused", message="no space left"))
    dispatcher = running(running(dispatch(tmp_path, FakeSearch([TRIAL] * 2), pools)), "t2")
    assert not dispatcher.decide("t1", RUNG)
    assert pools.closed == "the sweep ends: no space left"
    pools.stopped = None
    assert not dispatcher.decide("t2", RUNG), "every trial at a rung ends now"
    with pytest.raises(BackendError, match="no space left"):
        dispatcher.raise_error()


@pytest.mark.parametrize("where", ["ask", "observe", "rung", "ledger"])
def test_it_never_raises_but_ends_the_sweep_with_the_error(where: str, tmp_path: Path) -> None:
    trouble = DataError("the share is gone")
    fails = where == "observe"
    search = FakeSearch([trouble if where == "ask" else TRIAL, Done()], rung=trouble)
    pools = FakePools()
    dispatcher = dispatch(tmp_path, search, pools, observe=lambda: _give(trouble if fails else 0))
    dispatcher.propose("t1")
    if where == "rung":
        assert not dispatcher.decide("t1", RUNG)
    elif where == "ledger":
        (tmp_path / "ledger" / "fragments").mkdir(parents=True)
        (tmp_path / "ledger" / "fragments" / f"{TRIAL.key}.parquet").write_bytes(b"damaged")
        dispatcher.close_trial("t1")
        assert dispatcher.trials == {}
    assert isinstance(dispatcher.propose("t2"), Done)
    assert pools.closed
    with pytest.raises(Exception, match=TRIAL.key if where == "ledger" else "the share is gone"):
        dispatcher.raise_error()


def test_a_suggestion_that_cannot_be_written_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    full = StorageError("cannot write the suggestion: No space left")
    pools = FakePools()
    search = FakeSearch([full, full, TRIAL, *[full] * 100])
    dispatcher = dispatch(tmp_path, search, pools)
    assert isinstance(dispatcher.propose("t1"), Wait)
    assert isinstance(dispatcher.propose("t1"), Wait)
    assert len(search.answers) == 102, "not at every step"
    now += 1
    assert isinstance(dispatcher.propose("t1"), Wait)
    now += 1
    assert dispatcher.propose("t1") == TRIAL
    while isinstance(answer := dispatcher.propose("t2"), Wait):
        now += 1
    assert isinstance(answer, Done)
    assert 400 < now < 405, "after the 300 seconds of `storage_timeout`"
    assert pools.closed == f"the sweep ends: {full}"
    with pytest.raises(StorageError, match="No space left"):
        dispatcher.raise_error()


def test_a_result_is_looked_up_again_while_storage_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = FakeSearch([TRIAL])
    dispatcher = running(dispatch(tmp_path, search))
    answers = iter([StorageError("the share is away"), StorageError("still"), result()])
    monkeypatch.setattr(Ledger, "result", lambda *_: _give(next(answers)))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    dispatcher.close_trial("t1")
    assert search.told == [TRIAL.key]
