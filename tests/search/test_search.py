from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from orchestrator.results.selection import rank_configurations, winner
from orchestrator.search import Done, StudyProgress, Wait
from orchestrator.search.configurations import search_trial
from orchestrator.spec import Trial, fold_of
from tests.search.simulated import (
    TASKS,
    configurations,
    diverged,
    result,
    simulate,
    study,
)

SAMPLERS = pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
RULES = pytest.mark.parametrize("stopping", ["none", "asha"])


@SAMPLERS
@RULES
def test_a_sweep_meets_its_plan_and_nothing_twice(
    tmp_path: Path, sampler: str, stopping: str
) -> None:
    ran = simulate(tmp_path, sampler=sampler, stopping=stopping)
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
    rows = simulate(tmp_path).run()
    for task in TASKS:
        mine = [row for row in rows if row.trial.task == task]
        best = rank_configurations(mine)[:2]
        replicated = {row.trial.config for row in mine if row.trial.stage == "replicate"}
        final = [row.trial for row in mine if row.trial.stage == "final"]
        assert replicated == set(best)
        assert {trial.config for trial in final} == {winner(mine)}
        assert sorted(trial.seed for trial in final) == [1, 2]
        assert {row.trial.seed for row in mine if row.trial.stage == "search"} == {0}


def test_a_search_in_fp8_is_confirmed_in_bf16(tmp_path: Path) -> None:
    recipe = study().recipe.with_values({"precision": "fp8"})
    rows = simulate(tmp_path, studies=[study(task, recipe=recipe) for task in TASKS]).run()
    seen = {(row.trial.stage, row.trial.precision) for row in rows}
    assert seen == {("search", "fp8"), ("replicate", "bf16"), ("final", "bf16")}
    for task in TASKS:
        mine = [row for row in rows if row.trial.task == task]
        assert {row.trial.config for row in mine if row.trial.stage == "final"} == {winner(mine)}


def test_replicates_of_one_seed_share_a_fold(tmp_path: Path) -> None:
    on_folds = [replace(study(task), splits="folds") for task in TASKS]
    rows = simulate(tmp_path, studies=on_folds).run()
    for own in on_folds:
        mine = [row.trial for row in rows if row.trial.study == own.name]
        again = {(one.seed, one.data) for one in mine if one.stage == "replicate"}
        assert again == {(seed, fold_of(own.data.search, seed)) for seed in (1, 2)}
        assert {one.data for one in mine if one.stage == "search"} == {own.data.search}
        assert all(one.reads(own.data) for one in mine)
    fixed = simulate(tmp_path / "fixed").run()
    stages = {row.key: row.trial.stage for row in rows}
    assert {stages[row.key] for row in fixed if row.key in stages} == {"search", "final"}


def test_the_default_configuration_gets_final_trials_too(tmp_path: Path) -> None:
    own = study()
    default = search_trial(own, {})
    defaults = {"efft2": default.params}
    rows = simulate(tmp_path, studies=[own], recipe=own.recipe, defaults=defaults, trials=4).run()
    chosen = [row.trial for row in rows if row.trial.stage == "final"]
    assert Counter(one.config for one in chosen) == dict.fromkeys((winner(rows), default.config), 2)
    only = replace(own, space={"scale": CategoricalDistribution((own.params["scale"],))})
    rows = simulate(tmp_path / "only", studies=[only], defaults=defaults).run()
    finals = [row.trial for row in rows if row.trial.stage == "final"]
    assert len(finals) == 2, "the default won"


def test_only_final_trials_carry_the_test_split(tmp_path: Path) -> None:
    asked = simulate(tmp_path).run()
    own = study()
    for row in asked:
        if row.trial.task == "easy":
            expected = own.data.final if row.trial.stage == "final" else own.data.search
            assert row.trial.data == expected
    assert own.data.final not in (own.data.search, own.data.test)


@pytest.mark.parametrize("width", [1, 3, 50])
def test_a_stage_waits_for_the_one_before(tmp_path: Path, width: int) -> None:
    run = simulate(tmp_path, studies=[study()], width=width)
    ask = run.search.ask

    def checked() -> Any:
        trial = ask()
        done = Counter(row.trial.stage for row in run.rows)
        if isinstance(trial, Trial):
            assert trial.stage == "search" or done["search"] == 15
            assert trial.stage != "final" or done["replicate"] == 4
        return trial

    run.search.ask = checked
    assert len(run.run()) == 21


def test_one_configuration_skips_replicate(tmp_path: Path) -> None:
    rows = simulate(tmp_path, studies=[study(space={})]).run()
    assert [(row.trial.stage, row.trial.seed) for row in rows if row.trial.stage == "search"]
    assert sorted((row.trial.stage, row.trial.seed) for row in rows) == [
        ("final", 1),
        ("final", 2),
        ("search", 0),
    ]


def test_recipe_fields_are_searched_too(tmp_path: Path) -> None:
    space = {"lr": IntDistribution(1, 2), "scale": IntDistribution(1, 2)}
    rows = simulate(tmp_path, studies=[study(space=space)]).run()
    searched = [row.trial for row in rows if row.trial.stage == "search"]
    assert {trial.recipe.lr for trial in searched} == {1.0, 2.0}
    assert all(type(trial.params["scale"]) is float for trial in searched)
    assert all("lr" not in trial.params for trial in searched)


def test_studies_of_one_adapter_stay_together_and_take_turns(tmp_path: Path) -> None:
    studies = [study(task, adapter) for task in TASKS for adapter in ("efft2", "lora")]
    run = simulate(tmp_path, studies=studies, trials=3, width=100)
    first = [run.search.ask() for _ in range(12)]
    assert [trial.study for trial in first if isinstance(trial, Trial)] == [
        *["easy/efft2", "hard/efft2"] * 3,
        *["easy/lora", "hard/lora"] * 3,
    ]
    assert run.search.ask() == Wait()


def test_asha_never_compares_two_studies(tmp_path: Path) -> None:
    """Every accuracy of `hard` is below every one of `easy`; its sweep must not notice."""
    together = simulate(tmp_path / "a", stopping="asha", width=1).run()
    alone = simulate(tmp_path / "b", stopping="asha", width=1, studies=[study("hard")]).run()
    hard = {row.key: row.status for row in together if row.trial.task == "hard"}
    assert hard == {row.key: row.status for row in alone}
    assert "stopped" in hard.values()


def test_asha_has_no_rungs_after_the_search(tmp_path: Path) -> None:
    run = simulate(tmp_path, stopping="asha")
    run.run()
    for trial in run.asked:
        assert run.search.rungs(trial) == ((3, 9) if trial.stage == "search" else ())
        if trial.stage != "search":
            assert run.search.rung(trial.key, 3, 0.0) == "continue"
    assert run.search.rung("nobody", 3, 0.0) == "continue"


def test_repeated_results_and_those_of_another_sweep_are_ignored(tmp_path: Path) -> None:
    calm, noisy = (simulate(tmp_path / name, studies=[study()]) for name in "ab")
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


def test_a_lost_trial_is_repeated_twice_then_given_up(tmp_path: Path) -> None:
    search = simulate(tmp_path, studies=[study()], trials=2).search
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
    resumed = simulate(tmp_path, [result(other)], studies=[study()], trials=2).search
    assert resumed.ask() == first


def test_diverged_is_final_and_never_wins(tmp_path: Path) -> None:
    run = simulate(tmp_path, studies=[study()])
    run.outcome = lambda trial: diverged(trial) if trial.params["scale"] > 1 else result(trial)
    rows = run.run()
    assert Counter(row.status for row in rows if row.trial.stage == "search")["diverged"] == 6
    assert all(row.trial.params["scale"] <= 1 for row in rows if row.trial.stage != "search")
    assert simulate(tmp_path, rows, studies=[study()]).search.ask() == Done()


def test_nothing_finished_means_no_winner_and_an_end(tmp_path: Path) -> None:
    run = simulate(tmp_path, studies=[study()])
    run.outcome = diverged
    assert Counter(row.trial.stage for row in run.run()) == {"search": 15}
    assert run.search.progress()[0].best is None


def test_closed_search_goes_on_with_what_it_has(tmp_path: Path) -> None:
    studies = [study(), study("hard")]
    run = simulate(tmp_path, studies=studies, width=3)
    rows = list(run.run(results=6))
    run.search.close_search()
    run.run()
    assert Counter(row.trial.stage for row in run.rows) == {
        "search": 6 + 2,  # Two were in flight.
        "replicate": 8,
        "final": 4,
    }
    resumed = simulate(tmp_path, rows, studies=studies)
    resumed.run()
    assert Counter(row.trial.stage for row in resumed.rows)["search"] == 30 - 6
    empty = simulate(tmp_path / "empty").search
    empty.close_search()
    assert empty.ask() == Done()


def test_progress(tmp_path: Path) -> None:
    run = simulate(tmp_path, studies=[study(), study("hard", space={})], stopping="asha", width=3)
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
