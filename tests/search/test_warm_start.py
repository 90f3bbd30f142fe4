"""Warm starts and searched selections of layers and sites."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

import search_spaces
from orchestrator.search import SuggestionStore
from orchestrator.search.configurations import search_trial, searched_values
from orchestrator.search.warm_start import warm_start
from orchestrator.spec import Study, Trial
from tests.search.simulated import SimulatedSweep, configurations, simulate, study

TASKS = ("svhn", "digits")
SVHN = {"scale": 80.0, "rank": 32, "init": "vu"}
"""As published for efft2."""
WITH = {"cores": "shared", "dropout": 0.1, "layers": None}
"""What the published number depended on beside, and one field more."""


def spaced(task: str = "svhn", **changes: BaseDistribution) -> Study:
    space = {**search_spaces.get("efft2"), **changes}
    made = study(task, space=space)
    return replace(made, params={**made.params, **WITH})


def without(name: str, value: Any, task: str = "svhn") -> Study:
    """The study with a field held at a value."""
    made = spaced(task)
    space = {key: found for key, found in made.space.items() if key != name}
    return replace(made, space=space, params={**made.params, name: value})


def tried(run: SimulatedSweep, task: str) -> list[dict[str, Any]]:
    trials = [t for t in run.asked if t.stage == "search" and t.task == task]
    return [{name: trial.params[name] for name in SVHN} for trial in trials]


def warm(folder: Path, **changes: Any) -> SimulatedSweep:
    studies = [spaced(task) for task in TASKS]
    values = {"sampler": "tpe", "trials": 6, "warm_start": "published", "width": 1, **changes}
    return simulate(folder, studies=studies, **values)


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_the_published_configuration_is_asked_first_and_once(tmp_path: Path, sampler: str) -> None:
    run = warm(tmp_path, sampler=sampler)
    run.run()
    found = tried(run, "svhn")
    assert found[0] == SVHN
    assert found.count(SVHN) == 1
    assert len(found) == 6, "it counts as one of the trials"
    stored = SuggestionStore(tmp_path).load("svhn/efft2")
    assert (stored[0].index, dict(stored[0].values)) == (0, SVHN)
    assert [suggestion.index for suggestion in stored] == [*range(6)]


def test_a_grid_with_a_warm_start_still_has_every_point_once(tmp_path: Path) -> None:
    made = spaced(scale=CategoricalDistribution((1.0, 80.0)))
    run = simulate(tmp_path, studies=[made], sampler="grid", warm_start="published")
    run.run()
    found = configurations(run.asked)["svhn/efft2"]
    assert len(set(found)) == len(found) == search_spaces.grid_size(made.space)


def test_a_study_without_a_publication_starts_as_ever(tmp_path: Path) -> None:
    run, cold = warm(tmp_path / "a"), warm(tmp_path / "b", warm_start="none")
    run.run()
    cold.run()
    assert tried(run, "digits") == tried(cold, "digits")
    assert tried(run, "svhn")[0] != tried(cold, "svhn")[0]


@pytest.mark.parametrize("results", [1, 5])
def test_an_interrupted_sweep_resumes_the_same(tmp_path: Path, results: int) -> None:
    whole = warm(tmp_path / "a")
    whole.run()
    first = warm(tmp_path / "b")
    first.run(results)
    again = warm(tmp_path / "b", finished=first.rows)
    again.run()
    keys = {trial.key for trial in (*first.asked, *again.asked)}
    assert keys == {trial.key for trial in whole.asked}
    done = {row.key for row in first.rows}
    assert not done & {trial.key for trial in again.asked}


def test_searched_fields_without_a_publication_keep_the_studys_default() -> None:
    rates = CategoricalDistribution((0.01, study().recipe.lr))
    assert warm_start("published", spaced(lr=rates)) == {**SVHN, "lr": study().recipe.lr}
    layers = CategoricalDistribution((None, "0-2"))
    assert warm_start("published", spaced(layers=layers)) == {**SVHN, "layers": None}
    assert warm_start("published", spaced(lr=CategoricalDistribution((0.5,)))) is None


def test_a_publication_outside_the_space_is_left_out() -> None:
    assert warm_start("published", spaced()) == SVHN
    assert warm_start("none", spaced()) is None
    assert warm_start("published", spaced(scale=CategoricalDistribution((1.0, 10.0)))) is None
    assert warm_start("published", spaced(scale=FloatDistribution(1, 100, log=True))) == SVHN
    assert warm_start("published", spaced(rank=CategoricalDistribution((8, 16)))) is None


def test_a_field_held_at_another_value_leaves_it_out_too() -> None:
    assert warm_start("published", without("rank", 8)) is None
    assert warm_start("published", without("rank", 32)) == {"scale": 80.0, "init": "vu"}


def test_selections_become_the_adapters_lists_and_come_back() -> None:
    made = study(space=search_spaces.PRESETS["ablation"]("efft2", 12))
    made = replace(made, params={**made.params, "layers": None, "sites": ["mhsa", "ffn"]})
    for index in range(15):
        point = search_spaces.grid_point(made.space, index)
        trial = search_trial(made, point)
        assert searched_values(made, trial) == point
        assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial
    trial = search_trial(made, {"layers": "2-4", "sites": "ffn"})
    assert (trial.params["layers"], trial.params["sites"]) == ([2, 3, 4], ["ffn"])
    default = search_trial(made, {"layers": None, "sites": "mhsa+ffn"})
    assert default.config == search_trial(made, {}).config, "the adapter as it is by default"


def test_every_ablation_is_searched_once_and_resumes(tmp_path: Path) -> None:
    made = study(space=search_spaces.PRESETS["ablation"]("efft2", 4))
    made = replace(made, params={**made.params, "layers": None, "sites": ["mhsa", "ffn"]})
    first = simulate(tmp_path, studies=[made], sampler="tpe")
    first.run(7)
    again = simulate(tmp_path, finished=first.rows, studies=[made], sampler="tpe")
    again.run()
    found = {t.config for t in (*first.asked, *again.asked) if t.stage == "search"}
    assert len(found) == 15
