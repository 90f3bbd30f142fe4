"""Interrupted sweeps resume with the same trials; extended ones add only what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StorageError, SweepConflict
from orchestrator.results.selection import winner
from orchestrator.search import SuggestionStore
from orchestrator.spec import Trial
from tests.search.simulated import RECIPE, TASKS, configurations, simulate, study

SAMPLERS = pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
RULES = pytest.mark.parametrize("stopping", ["none", "asha"])


@SAMPLERS
def test_a_question_that_storage_refuses_changes_nothing(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again until it is granted, a sweep is what it would have been."""
    calm = simulate(tmp_path / "calm", sampler=sampler).run()
    run = simulate(tmp_path / "refused", sampler=sampler)
    record, ask = SuggestionStore.record, run.search.ask
    calls = refused = 0

    def refusing(*arguments: Any) -> None:
        nonlocal calls, refused
        calls += 1
        if calls % 3:
            refused += 1
            raise StorageError("the disk is full")
        record(*arguments)

    def call() -> Any:
        while True:
            try:
                return ask()
            except StorageError:
                continue

    monkeypatch.setattr(SuggestionStore, "record", refusing)
    monkeypatch.setattr(run.search, "ask", call)
    assert [row.key for row in run.run()] == [row.key for row in calm]
    assert refused == 2 * len(TASKS) * 15


def test_asha_rebuilt_from_the_ledger_answers_as_before(tmp_path: Path) -> None:
    live = simulate(tmp_path, stopping="asha", studies=[study()], width=1)
    rows = live.run(results=9)
    resumed = simulate(tmp_path, rows, stopping="asha", studies=[study()], width=1)
    for value in range(40, 200, 3):
        probe = live.search.ask(), resumed.search.ask()
        if not isinstance(probe[0], Trial):
            break
        assert probe[0] == probe[1]
        answers = [m.search.rung(probe[0].key, 3, value / 200) for m in (live, resumed)]
        assert answers[0] == answers[1]


@SAMPLERS
@RULES
def test_interrupted_trials_come_back_as_they_were(
    tmp_path: Path, sampler: str, stopping: str
) -> None:
    first = simulate(tmp_path, sampler=sampler, stopping=stopping, width=6)
    rows = first.run(results=5)
    lost = {trial.key for trial in first.asked} - {row.key for row in rows}
    assert lost
    second = simulate(tmp_path, rows, sampler=sampler, stopping=stopping, width=6)
    again = second.run()
    asked = {trial.key for trial in second.asked}
    assert lost <= asked
    assert not asked & {row.key for row in rows}
    for found in configurations([*(row.trial for row in rows), *second.asked]).values():
        assert len(found) == len(set(found)) == 15
    assert len(rows) + len(again) == 2 * (15 + 4 + 2)


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_resumed_anywhere_the_same_trials_are_run(tmp_path: Path, sampler: str) -> None:
    options: dict[str, Any] = {"sampler": sampler, "trials": 5}
    whole = simulate(tmp_path / "whole", **options).run()
    keys = {row.key for row in whole}
    assert len(keys) == len(whole) == 2 * (5 + 4 + 2)
    for cut in range(0, len(whole) + 1, 2):
        folder = tmp_path / str(cut)
        before = simulate(folder, **options, seed=cut).run(results=cut)
        after = simulate(folder, before, **options, width=1 + cut % 5, seed=cut + 1).run()
        assert sorted(row.key for row in [*before, *after]) == sorted(keys)


def test_lost_suggestions_are_recovered_from_the_ledger(tmp_path: Path) -> None:
    rows = simulate(tmp_path / "a", sampler="tpe", width=1).run(results=20)
    rest = simulate(tmp_path / "b", rows, sampler="tpe", width=1)
    rest.run()
    for found in configurations([*(row.trial for row in rows), *rest.asked]).values():
        assert len(found) == len(set(found)) == 15


@pytest.mark.parametrize("changes", [{"seeds": 4}, {"trials": 5}, {"replicate": 3}])
def test_larger_plans_only_add_what_is_missing(tmp_path: Path, changes: dict[str, Any]) -> None:
    base: dict[str, Any] = {"trials": 3, "studies": [study()]}
    rows = simulate(tmp_path, **base).run()
    more = simulate(tmp_path, rows, **(base | changes))
    added = more.run()
    assert added
    assert not {row.key for row in rows} & {row.key for row in added}
    everything = [row.trial for row in [*rows, *added]]
    final = [trial for trial in everything if trial.stage == "final"]
    best = winner([*rows, *added])
    seeds = {trial.seed for trial in final if trial.config == best}
    assert seeds == set(range(1, changes.get("seeds", 2) + 1))
    found = configurations(everything)["easy/efft2"]
    assert len(found) == len(set(found)) == changes.get("trials", 3)
    replicated = {trial.config for trial in everything if trial.stage == "replicate"}
    assert len(replicated) >= changes.get("replicate", 2)


@pytest.mark.parametrize("changes", [{"seeds": 1}, {"trials": 3}, {"sampler": "tpe"}])
def test_smaller_plans_and_other_samplers_ask_nothing_again(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    base: dict[str, Any] = {"trials": 5, "studies": [study()]}
    rows = simulate(tmp_path, **base).run()
    assert simulate(tmp_path, rows, **(base | changes)).run() == []


def test_another_task_leaves_the_first_alone(tmp_path: Path) -> None:
    rows = simulate(tmp_path, studies=[study("easy")]).run()
    added = simulate(tmp_path, rows, studies=[study("easy"), study("hard")]).run()
    assert {row.trial.task for row in added} == {"hard"}


def test_stopped_rows_satisfy_only_their_own_rule(tmp_path: Path) -> None:
    rows = simulate(tmp_path, stopping="asha", studies=[study()]).run()
    stopped = {row.key for row in rows if row.status == "stopped"}
    assert stopped
    assert simulate(tmp_path, rows, stopping="asha", studies=[study()]).run() == []
    full = simulate(tmp_path, rows, stopping="none", studies=[study()])
    full.run()
    assert {trial.key for trial in full.asked if trial.stage == "search"} == stopped
    later = [row for row in rows if row.key not in stopped] + full.rows
    assert simulate(tmp_path, later, stopping="asha", studies=[study()]).run() == []


def test_suggestions_of_another_sweep_are_refused(tmp_path: Path) -> None:
    simulate(tmp_path, studies=[study()]).run(results=2)
    changed = study(recipe=replace(RECIPE, epochs=20))
    with pytest.raises(SweepConflict, match=r"easy--efft2/00000\.json.*easy/efft2"):
        simulate(tmp_path, studies=[changed])
