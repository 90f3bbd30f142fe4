from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from orchestrator.errors import InvalidInput, LedgerError, StorageError, SweepConflict
from orchestrator.results.selection import rank_configurations, winner
from orchestrator.search import Done, StudyProgress, SuggestionStore, Wait
from orchestrator.spec import Trial
from search_spaces import grid_point
from tests.search.simulated import (
    RECIPE,
    SPACE,
    TASKS,
    configurations,
    diverged,
    machine,
    result,
    study,
)

SAMPLERS = pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
RULES = pytest.mark.parametrize("stopping", ["none", "asha"])
OPEN = {"scale": FloatDistribution(0.01, 100, log=True), "rank": IntDistribution(1, 64)}


@SAMPLERS
@RULES
def test_a_sweep_meets_its_plan_and_nothing_twice(
    tmp_path: Path, sampler: str, stopping: str
) -> None:
    ran = machine(tmp_path, sampler=sampler, stopping=stopping)
    rows = ran.run()
    assert len({trial.key for trial in ran.asked}) == len(ran.asked) == len(rows)
    for found in configurations(ran.asked).values():
        assert len(set(found)) == len(found) == 15
    stages = Counter((trial.study, trial.stage) for trial in ran.asked)
    for task in TASKS:
        assert stages[f"{task}/efft2", "search"] == 15
        assert stages[f"{task}/efft2", "replicate"] == 4
        assert stages[f"{task}/efft2", "final"] == 2


def test_stages_choose_as_selection_says(tmp_path: Path) -> None:
    rows = machine(tmp_path).run()
    for task in TASKS:
        mine = [row for row in rows if row.trial.task == task]
        best = rank_configurations(mine)[:2]
        replicated = {row.trial.config for row in mine if row.trial.stage == "replicate"}
        final = [row.trial for row in mine if row.trial.stage == "final"]
        assert replicated == set(best)
        assert {trial.config for trial in final} == {winner(mine)}
        assert sorted(trial.seed for trial in final) == [1, 2]
        assert {row.trial.seed for row in mine if row.trial.stage == "search"} == {0}


def test_only_final_trials_carry_the_test_split(tmp_path: Path) -> None:
    asked = machine(tmp_path).run()
    own = study()
    for row in asked:
        if row.trial.task == "easy":
            expected = own.data.final if row.trial.stage == "final" else own.data.search
            assert row.trial.data == expected
    assert own.data.final not in (own.data.search, own.data.test)


@SAMPLERS
def test_a_question_that_storage_refuses_changes_nothing(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again until it is granted, a sweep is what it would have been."""
    calm = machine(tmp_path / "calm", sampler=sampler).run()
    run = machine(tmp_path / "refused", sampler=sampler)
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


@pytest.mark.parametrize("width", [1, 3, 50])
def test_a_stage_waits_for_the_one_before(tmp_path: Path, width: int) -> None:
    run = machine(tmp_path, studies=[study()], width=width)
    told: list[Any] = []
    tell = run.search.tell

    def watched(row: Any) -> None:
        told.append(row)
        tell(row)

    run.search.tell = watched
    ask = run.search.ask

    def gated() -> Any:
        trial = ask()
        done = Counter(row.trial.stage for row in told)
        if isinstance(trial, Trial):
            assert trial.stage == "search" or done["search"] == 15
            assert trial.stage != "final" or done["replicate"] == 4
        return trial

    run.search.ask = gated
    assert len(run.run()) == 21


def test_grid_is_asked_in_declared_order_and_may_be_truncated(tmp_path: Path) -> None:
    asked = machine(tmp_path, studies=[study()], trials=7, width=1)
    asked.run()
    searched = [trial for trial in asked.asked if trial.stage == "search"]
    points = [{name: trial.params[name] for name in SPACE} for trial in searched]
    assert points == [grid_point(SPACE, index) for index in range(7)]


def test_one_configuration_skips_replicate(tmp_path: Path) -> None:
    rows = machine(tmp_path, studies=[study(space={})]).run()
    assert [(row.trial.stage, row.trial.seed) for row in rows if row.trial.stage == "search"]
    assert sorted((row.trial.stage, row.trial.seed) for row in rows) == [
        ("final", 1),
        ("final", 2),
        ("search", 0),
    ]


def test_recipe_fields_are_searched_too(tmp_path: Path) -> None:
    space = {"lr": IntDistribution(1, 2), "scale": IntDistribution(1, 2)}
    rows = machine(tmp_path, studies=[study(space=space)]).run()
    searched = [row.trial for row in rows if row.trial.stage == "search"]
    assert {trial.recipe.lr for trial in searched} == {1.0, 2.0}
    assert all(type(trial.params["scale"]) is float for trial in searched)
    assert all("lr" not in trial.params for trial in searched)


def test_studies_of_one_adapter_stay_together_and_take_turns(tmp_path: Path) -> None:
    studies = [study(task, adapter) for task in TASKS for adapter in ("efft2", "lora")]
    run = machine(tmp_path, studies=studies, trials=3, width=100)
    first = [run.search.ask() for _ in range(12)]
    assert [trial.study for trial in first if isinstance(trial, Trial)] == [
        *["easy/efft2", "hard/efft2"] * 3,
        *["easy/lora", "hard/lora"] * 3,
    ]
    assert run.search.ask() == Wait()


def test_asha_never_compares_two_studies(tmp_path: Path) -> None:
    """Every accuracy of `hard` is below every one of `easy`; its sweep must not notice."""
    together = machine(tmp_path / "a", stopping="asha", width=1).run()
    alone = machine(tmp_path / "b", stopping="asha", width=1, studies=[study("hard")]).run()
    hard = {row.key: row.status for row in together if row.trial.task == "hard"}
    assert hard == {row.key: row.status for row in alone}
    assert "stopped" in hard.values()


def test_asha_has_no_rungs_after_the_search(tmp_path: Path) -> None:
    run = machine(tmp_path, stopping="asha")
    run.run()
    for trial in run.asked:
        assert run.search.rungs(trial) == ((3, 9) if trial.stage == "search" else ())
        if trial.stage != "search":
            assert run.search.rung(trial.key, 3, 0.0) == "continue"
    assert run.search.rung("nobody", 3, 0.0) == "continue"


def test_asha_rebuilt_from_the_ledger_answers_as_before(tmp_path: Path) -> None:
    live = machine(tmp_path, stopping="asha", studies=[study()], width=1)
    rows = live.run(results=9)
    resumed = machine(tmp_path, rows, stopping="asha", studies=[study()], width=1)
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
    first = machine(tmp_path, sampler=sampler, stopping=stopping, width=6)
    rows = first.run(results=5)
    lost = {trial.key for trial in first.asked} - {row.key for row in rows}
    assert lost
    second = machine(tmp_path, rows, sampler=sampler, stopping=stopping, width=6)
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
    whole = machine(tmp_path / "whole", **options).run()
    keys = {row.key for row in whole}
    assert len(keys) == len(whole) == 2 * (5 + 4 + 2)
    for cut in range(len(whole) + 1):
        folder = tmp_path / str(cut)
        before = machine(folder, **options, seed=cut).run(results=cut)
        after = machine(folder, before, **options, width=1 + cut % 5, seed=cut + 1).run()
        assert sorted(row.key for row in [*before, *after]) == sorted(keys)


def test_lost_suggestions_are_recovered_from_the_ledger(tmp_path: Path) -> None:
    rows = machine(tmp_path / "a", sampler="tpe", width=1).run(results=20)
    rest = machine(tmp_path / "b", rows, sampler="tpe", width=1)
    rest.run()
    for found in configurations([*(row.trial for row in rows), *rest.asked]).values():
        assert len(found) == len(set(found)) == 15


@pytest.mark.parametrize("changes", [{"seeds": 4}, {"trials": 5}, {"replicate": 3}])
def test_larger_plans_only_add_what_is_missing(tmp_path: Path, changes: dict[str, Any]) -> None:
    base: dict[str, Any] = {"trials": 3, "studies": [study()]}
    rows = machine(tmp_path, **base).run()
    more = machine(tmp_path, rows, **(base | changes))
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
    rows = machine(tmp_path, **base).run()
    assert machine(tmp_path, rows, **(base | changes)).run() == []


def test_another_task_leaves_the_first_alone(tmp_path: Path) -> None:
    rows = machine(tmp_path, studies=[study("easy")]).run()
    added = machine(tmp_path, rows, studies=[study("easy"), study("hard")]).run()
    assert {row.trial.task for row in added} == {"hard"}


def test_a_finished_sweep_is_done_at_once(tmp_path: Path) -> None:
    rows = machine(tmp_path).run()
    again = machine(tmp_path, rows)
    assert again.search.ask() == Done()
    assert {item.stage for item in again.search.progress()} == {"done"}


def test_stopped_rows_satisfy_only_their_own_rule(tmp_path: Path) -> None:
    rows = machine(tmp_path, stopping="asha", studies=[study()]).run()
    stopped = {row.key for row in rows if row.status == "stopped"}
    assert stopped
    assert machine(tmp_path, rows, stopping="asha", studies=[study()]).run() == []
    full = machine(tmp_path, rows, stopping="none", studies=[study()])
    full.run()
    assert {trial.key for trial in full.asked if trial.stage == "search"} == stopped
    later = [row for row in rows if row.key not in stopped] + full.rows
    assert machine(tmp_path, later, stopping="asha", studies=[study()]).run() == []


def test_telling_twice_or_of_strangers_does_no_harm(tmp_path: Path) -> None:
    calm, noisy = (machine(tmp_path / name, studies=[study()]) for name in "ab")
    tell = noisy.search.tell

    def echo(row: Any) -> None:
        tell(row)
        for item in noisy.rows:
            tell(item)
        tell(replace(row, trial=replace(row.trial, task="another")))
        noisy.search.failed(row.key, "late")
        noisy.search.failed("nobody", "?")

    noisy.search.tell = echo
    assert [row.key for row in noisy.run()] == [row.key for row in calm.run()]
    assert noisy.search.progress() == calm.search.progress()


def test_lost_trials_are_asked_twice_more_then_given_up(tmp_path: Path) -> None:
    search = machine(tmp_path, studies=[study()], trials=2).search
    first, other = search.ask(), search.ask()
    assert isinstance(first, Trial) and isinstance(other, Trial)
    for _ in range(2):
        search.failed(first.key, "the node vanished")
        assert search.ask() == first
    search.failed(first.key, "the node vanished again")
    assert search.ask() == Wait()
    assert search.failures() == {first.key: "the node vanished again"}
    search.tell(result(other))
    replicate = search.ask()
    assert isinstance(replicate, Trial)
    assert (replicate.stage, replicate.config) == ("replicate", other.config)
    assert search.progress()[0].failed == 1
    resumed = machine(tmp_path, [result(other)], studies=[study()], trials=2).search
    assert resumed.ask() == first


def test_diverged_is_final_and_never_wins(tmp_path: Path) -> None:
    run = machine(tmp_path, studies=[study()])
    run.outcome = lambda trial: diverged(trial) if trial.params["scale"] > 1 else result(trial)
    rows = run.run()
    assert Counter(row.status for row in rows if row.trial.stage == "search")["diverged"] == 6
    assert all(row.trial.params["scale"] <= 1 for row in rows if row.trial.stage != "search")
    assert machine(tmp_path, rows, studies=[study()]).search.ask() == Done()


def test_nothing_finished_means_no_winner_and_an_end(tmp_path: Path) -> None:
    run = machine(tmp_path, studies=[study()])
    run.outcome = diverged
    assert Counter(row.trial.stage for row in run.run()) == {"search": 15}
    assert run.search.progress()[0].best is None


def test_closed_search_goes_on_with_what_it_has(tmp_path: Path) -> None:
    studies = [study(), study("hard")]
    run = machine(tmp_path, studies=studies, width=3)
    rows = list(run.run(results=6))
    run.search.close_search()
    run.run()
    assert Counter(row.trial.stage for row in run.rows) == {
        "search": 6 + 2,  # Two were in flight.
        "replicate": 8,
        "final": 4,
    }
    resumed = machine(tmp_path, rows, studies=studies)
    resumed.run()
    assert Counter(row.trial.stage for row in resumed.rows)["search"] == 30 - 6


def test_closed_before_anything_ran(tmp_path: Path) -> None:
    search = machine(tmp_path).search
    search.close_search()
    assert search.ask() == Done()


def test_progress(tmp_path: Path) -> None:
    run = machine(tmp_path, studies=[study(), study("hard", space={})], stopping="asha", width=3)
    fresh = run.search.progress()
    assert fresh[0] == StudyProgress("easy/efft2", "search", 0, 0, 0, 0, 0, 15 + 4 + 2, None)
    assert fresh[1].total == 1 + 2
    run.run(results=8)
    assert sum(item.running for item in run.search.progress()) <= 3
    run.run()
    easy, hard = run.search.progress()
    assert (easy.stage, easy.running) == ("done", 0)
    assert easy.done + easy.stopped == easy.total
    assert easy.stopped > 0
    assert (hard.done, hard.total) == (3, 3)
    searched = [
        row.value or 0
        for row in run.rows
        if row.trial.study == easy.study and row.trial.stage == "search"
        if row.status == "finished"
    ]
    assert easy.best == max(searched)


def test_suggestions_of_another_sweep_are_refused(tmp_path: Path) -> None:
    machine(tmp_path, studies=[study()]).run(results=2)
    changed = study(recipe=replace(RECIPE, epochs=20))
    with pytest.raises(SweepConflict, match=r"easy--efft2/00000\.json.*easy/efft2"):
        machine(tmp_path, studies=[changed])


def test_damaged_suggestions_and_unknown_names_are_refused(tmp_path: Path) -> None:
    machine(tmp_path).run(results=2)
    SuggestionStore(tmp_path).path("hard/efft2", 0).write_text("{")
    with pytest.raises(LedgerError, match=r"hard--efft2/00000\.json"):
        machine(tmp_path)
    for changes in ({"sampler": "tp"}, {"stopping": "hyperband"}):
        with pytest.raises(InvalidInput, match="Available"):
            machine(tmp_path / "new", **changes)
    with pytest.raises(InvalidInput, match="finitely many values of scale"):
        machine(tmp_path / "new", studies=[study(space=OPEN)])


def test_the_search_needs_neither_torch_nor_ray_nor_mlflow() -> None:
    code = (
        "import sys, orchestrator.search, orchestrator.results.selection, search_spaces;"
        "sys.exit(bool({'torch', 'ray', 'mlflow', 'adapters'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
