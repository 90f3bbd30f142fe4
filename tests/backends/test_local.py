"""The backend in this process: width, order, waiting, stopping."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import local
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.data.prepared.prepare import prepare_tasks
from orchestrator.engine import pool
from orchestrator.engine.width import WidthPlan
from orchestrator.errors import CheckpointError
from orchestrator.planning.resolve import plan_studies
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.search.search import Done, Search, Wait
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import Sweep, Trial, TrialResult
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.storage.sweep_paths import SweepPaths
from tests.backends.worlds import RECIPE, SUITE, TASK, keys, logged, pool_config, trial
from tests.commands import events, widest


class Scripted:
    """Gives out trials in order; after each batch it waits until all of them are told."""

    def __init__(self, *batches: Sequence[Trial], rungs: tuple[int, ...] = ()) -> None:
        self.batches = deque(deque(batch) for batch in batches)
        self.flying: set[str] = set()
        self.told: list[TrialResult] = []
        self.reported: list[tuple[str, int]] = []
        self.waits = 0
        self._rungs = rungs

    def ask(self) -> Trial | Wait | Done:
        while self.batches and not self.batches[0] and not self.flying:
            self.batches.popleft()
        if not self.batches:
            return Done()
        if not self.batches[0]:
            self.waits += 1
            return Wait()
        asked = self.batches[0].popleft()
        self.flying.add(asked.key)
        return asked

    def rungs(self, one: Trial) -> tuple[int, ...]:
        return self._rungs

    def rung(self, key: str, epoch: int, value: float) -> str:
        self.reported.append((key, epoch))
        return "stop" if len(self.reported) % 2 else "continue"

    def tell(self, row: TrialResult) -> None:
        self.flying.remove(row.key)
        self.told.append(row)


def run(search: Any, out: Path, data: Path, width: int, observe: Callable[[], None]) -> None:
    with FolderLock(out, timeout=0) as lease:
        config = pool_config(out, data, lease.token, width=width)
        local.run(search, config, device="cpu", observe=observe)


def test_width_order_and_waiting(tmp_path: Path, mini_data: Path) -> None:
    first = [trial(mini_data, seed) for seed in range(5)]
    second = [trial(mini_data, seed) for seed in range(5, 8)]
    search = Scripted(first, second)
    observed: list[int] = []
    run(search, tmp_path, mini_data, 3, lambda: observed.append(len(search.told)))

    assert not search.batches
    assert search.waits > 0
    assert widest(tmp_path) == 3
    started = [event.key for event in events(tmp_path) if event.name == "started"]
    assert started == [one.key for one in (*first, *second)]
    recorded = [event.key for event in events(tmp_path) if event.name == "recorded"]
    assert [row.key for row in search.told] == recorded
    assert set(recorded[:5]) == {one.key for one in first}, "the second batch waited for the first"
    assert keys(tmp_path) == set(started)
    assert observed == list(range(1, 9))


def test_rungs_stop_or_continue(tmp_path: Path, mini_data: Path) -> None:
    trials = [trial(mini_data, seed) for seed in range(4)]
    search = Scripted(trials, rungs=(1,))
    run(search, tmp_path, mini_data, 4, lambda: None)
    assert sorted(search.reported) == sorted((one.key, 1) for one in trials)
    stopped = {key for key, _ in search.reported[::2]}
    rows = {row.key: row for row in Ledger(SweepPaths(tmp_path).ledger).results()}
    for one in trials:
        row = rows[one.key]
        expected = ("stopped", "asha", 1) if one.key in stopped else ("finished", "", 2)
        assert (row.status, row.stopping, row.epochs_run) == expected


def test_a_pool_holds_as_many_as_it_measured_unless_told_otherwise(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "benchmark_width", lambda *_: WidthPlan(3, (), "throughput"))
    with FolderLock(tmp_path) as lease:
        search: Any = Scripted([trial(mini_data, seed, epochs=1) for seed in range(6)])
        local.run(search, pool_config(tmp_path, mini_data, lease.token))
    assert widest(tmp_path) == 3
    window = throughput.total(throughput.read(SweepPaths(tmp_path).pools))
    assert (window.trained, window.evaluated) == (6 * 25 * 32, 6 * 200)
    assert [(g.planned, g.bound) for g in window.groups] == [(3, "throughput")]
    assert window.seconds > 0
    assert window.rate > 1e9
    assert window.memory > 1e7


def test_a_refused_trial_ends_it_and_keeps_the_results(tmp_path: Path, mini_data: Path) -> None:
    good, bad = trial(mini_data, 1), trial(mini_data, 2)
    damaged = SweepPaths(tmp_path).checkpoints / f"{bad.key}.safetensors"
    damaged.parent.mkdir()
    damaged.write_bytes(b"")
    with pytest.raises(CheckpointError, match=bad.key):
        run(Scripted([good], [bad]), tmp_path, mini_data, 2, lambda: None)
    assert keys(tmp_path) == {good.key}
    with FolderLock(tmp_path, timeout=0):  # and no lock is left
        pass


def test_ctrl_c_leaves_no_lock(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: PoolWorker) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PoolWorker, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(Scripted([trial(mini_data)]), tmp_path, mini_data, 1, lambda: None)
    with FolderLock(tmp_path, timeout=0):
        pass


def test_every_stage_of_a_real_search(tmp_path: Path, mini_data: Path) -> None:
    sweep = Sweep(
        suite=SUITE.name,
        backbone="vit_mini",
        tasks=(TASK,),
        adapters=("linear",),
        sampler="grid",
        stopping="none",
        trials=None,
        seeds=2,
        replicate=1,
        recipe=replace(RECIPE, epochs=1),
        spaces={"linear": {"lr": [0.01, 0.001]}},
    )
    data = {TASK: prepare_tasks(SUITE, [SUITE.task(TASK)], mini_data, None)[TASK].identity}
    studies = plan_studies(sweep, data, pool_config(tmp_path, mini_data, "").weights)
    asks = SuggestionStore(tmp_path / "asks")
    search = Search(sweep, studies, asks, ())
    run(search, tmp_path, mini_data, 2, lambda: None)
    rows = Ledger(SweepPaths(tmp_path).ledger).results()
    assert [row.trial.stage for row in rows] == ["search"] * 2 + ["replicate"] * 2 + ["final"] * 2
    assert [row.test_reads for row in rows] == [0, 0, 0, 0, 1, 1]
    assert search.progress()[0].stage == "done"

    run(Search(sweep, studies, asks, rows), tmp_path, mini_data, 2, lambda: None)
    assert all(logged(tmp_path, row.key) == ["started", "recorded"] for row in rows)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local.pick_device("cuda:1") == "cuda:1"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local.pick_device("auto") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert local.pick_device("auto") == "cuda"
