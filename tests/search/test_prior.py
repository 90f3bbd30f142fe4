"""Priors, and searched selections of layers and sites."""

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
from orchestrator.search.prior import FIRST, Searched, most_promising, published_point
from orchestrator.spec import Study, Trial, TrialResult
from tests.search.simulated import (
    SimulatedSweep,
    configurations,
    diverged,
    result,
    simulate,
    study,
)

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
    values = {"sampler": "tpe", "trials": 6, "prior": ("published",), "width": 1, **changes}
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


def test_a_grid_with_a_prior_still_has_every_point_once(tmp_path: Path) -> None:
    made = spaced(scale=CategoricalDistribution((1.0, 80.0)))
    run = simulate(tmp_path, studies=[made], sampler="grid", prior=("published",))
    run.run()
    found = configurations(run.asked)["svhn/efft2"]
    assert len(set(found)) == len(found) == search_spaces.grid_size(made.space)


def test_a_study_without_a_publication_starts_as_ever(tmp_path: Path) -> None:
    run, cold = warm(tmp_path / "a"), warm(tmp_path / "b", prior=())
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
    assert published_point(spaced(lr=rates)) == {**SVHN, "lr": study().recipe.lr}
    layers = CategoricalDistribution((None, "0-2"))
    assert published_point(spaced(layers=layers)) == {**SVHN, "layers": None}
    assert published_point(spaced(lr=CategoricalDistribution((0.5,)))) is None


def test_a_publication_outside_the_space_is_left_out() -> None:
    assert published_point(spaced()) == SVHN
    assert published_point(spaced(scale=CategoricalDistribution((1.0, 10.0)))) is None
    assert published_point(spaced(scale=FloatDistribution(1, 100, log=True))) == SVHN
    assert published_point(spaced(rank=CategoricalDistribution((8, 16)))) is None


def test_a_field_held_at_another_value_leaves_it_out_too() -> None:
    assert published_point(without("rank", 8)) is None
    assert published_point(without("rank", 32)) == {"scale": 80.0, "init": "vu"}


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


def searched(name: str, accuracies: dict[tuple[float, int, str], float]) -> Searched:
    fields = [
        ({**dict(zip(SVHN, point, strict=True)), "lr": 1.0}, v) for point, v in accuracies.items()
    ]
    return Searched(name, tuple(fields))


A, B, C = (80.0, 32, "vu"), (1.0, 8, "vv"), (0.1, 8, "vv")


def test_the_highest_mean_score_over_the_searches_is_tried_first() -> None:
    one = searched("one", {A: 0.9, B: 0.8, C: 0.1})
    other = searched("other", {B: 0.5, C: 0.4, (7.0, 8, "vv"): 0.99})
    made, taken = spaced("digits"), list[dict[str, Any]]()
    # Quantiles of the ranks 5/6, 3/6, 1/6 are z, 0, -z; other's point is not of the space, so that
    # B and C have the quantiles of 3/4 and 1/4.
    for expected in (A, B):
        found = most_promising(made, [one, other], taken)
        assert found is not None
        assert (found[0], found[1]) == (dict(zip(SVHN, expected, strict=True)), ("one", "other"))
        taken.append(found[0])
    assert most_promising(made, [one, other], taken) is None, "C is below the middle"
    assert most_promising(made, [], []) is None
    winner_of = searched("a registry", {C: 1.0})
    found = most_promising(made, [winner_of], [])
    assert found == (dict(zip(SVHN, C, strict=True)), ("a registry",))
    elsewhere = searched("elsewhere", {(7.0, 8, "vv"): 1.0})
    assert most_promising(made, [elsewhere], []) is None


def test_only_search_trials_say_something_and_those_that_ended_early_say_less() -> None:
    of = search_trial(spaced(), SVHN)
    rows = [
        result(of), replace(result(search_trial(spaced(), {**SVHN, "scale": 1.0}), 3), value=0.99),
        diverged(search_trial(spaced(), {**SVHN, "scale": 5.0})),
        result(replace(of, stage="final", seed=1)), result(replace(of, stage="replicate", seed=1)),
        result(replace(of, protocol="paper")),
    ]  # fmt: skip
    found = Searched.of("s", rows)
    assert [fields["scale"] for fields, _ in sorted(found.trials, key=lambda t: -t[1])] == [
        80,
        1,
        5,
    ]


@pytest.mark.parametrize("width", [1, 3])
def test_later_studies_begin_with_what_earlier_ones_have_shown(tmp_path: Path, width: int) -> None:
    names = ("easy", "hard", "third")
    merit = {point["scale"]: -abs(index - 7) for index, point in enumerate(
        {"scale": s} for s in search_spaces.get("efft2")["scale"].choices  # type: ignore[attr-defined]
    )}  # fmt: skip

    def trained(trial: Trial) -> TrialResult:
        return replace(result(trial), value=0.5 + merit[trial.params["scale"]] / 100)

    def run(folder: Path, finished: Any = (), results: int | None = None, **changes: Any) -> Any:
        values = {"sampler": "random", "trials": 12, "prior": ("sweep",), "tasks": names, **changes}
        made = simulate(folder, finished, [spaced(name) for name in names], width=width, **values)
        made.outcome = trained
        made.run(results)
        return made

    whole = run(tmp_path / "a")
    scales = {name: [point["scale"] for point in tried(whole, name)] for name in names}
    best = max(scales["easy"], key=merit.__getitem__)
    stored = SuggestionStore(tmp_path / "a")
    first = stored.load("hard/efft2")
    assert all(not one.informed_by for one in stored.load("easy/efft2")[:1])
    if width == 1:
        assert scales["hard"][0] == best
        assert all(one.informed_by == ("easy/efft2",) for one in first[:FIRST])
        third = stored.load("third/efft2")
        assert third[0].informed_by == ("easy/efft2", "hard/efft2")
    assert not any(one.informed_by for one in first[FIRST:])
    cold = run(tmp_path / "c", prior=())
    assert merit[scales["hard"][0]] >= merit[tried(cold, "hard")[0]["scale"]]
    for count in (3, 17):
        begun = run(tmp_path / f"b{count}", results=count)
        again = run(tmp_path / f"b{count}", begun.rows)
        keys = [trial.key for trial in (*begun.asked, *again.asked) if trial.stage == "search"]
        done = {row.key for row in begun.rows}
        assert not done & {trial.key for trial in again.asked}, "nothing is repeated"
        assert len(set(keys)) == 36


def test_a_study_with_a_quarter_in_flight_lets_the_next_one_begin(tmp_path: Path) -> None:
    studies = [spaced(name) for name in ("easy", "hard")]
    search = simulate(
        tmp_path, studies=studies, sampler="random", trials=12, prior=("sweep",)
    ).search
    asked = [search.ask() for _ in range(8)]
    assert [trial.task for trial in asked if isinstance(trial, Trial)] == [
        *["easy"] * 3, *["hard"] * 3, *["easy"] * 2,
    ]  # fmt: skip


def test_choices_on_test_inform_nobody(tmp_path: Path) -> None:
    studies = [replace(spaced(name), protocol="paper") for name in ("easy", "hard")]
    changes = {"sampler": "random", "trials": 4, "prior": ("sweep",), "protocols": ("paper",)}
    simulate(tmp_path, studies=studies, width=1, **changes).run()
    stored = SuggestionStore(tmp_path)
    assert not any(one.informed_by for made in studies for one in stored.load(made.name))
