from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from orchestrator.analysis.sensitivity import BINS, Sensitivity, sensitivities
from orchestrator.spec import Sweep, TrialResult
from tests.analysis.synthetic import RECIPE, SWEEP, result, trial

LORA = replace(SWEEP, tasks=("digits", "location"), adapters=("lora",))


def space(**fields: Any) -> Sweep:
    return replace(LORA, spaces={"lora": fields})


def row(task: str, value: float | None, status: Any = "finished", **params: Any) -> TrialResult:
    return result(trial(task, "lora", params), value, status=status)


def table(values: Mapping[str, Sequence[float]]) -> list[TrialResult]:
    """Task → val accuracy at scales 0.1, 1 and 10, rank 2."""
    return [
        row(task, value, scale=scale, rank=2)
        for task, found in values.items()
        for scale, value in zip((0.1, 1.0, 10.0), found, strict=True)
    ]


def of_scale(rows: Sequence[TrialResult], sweep: Sweep = LORA) -> Sensitivity:
    (found,) = [item for item in sensitivities(rows, sweep) if item.field == "scale"]
    return found


def test_levels_and_their_normalised_mean_by_hand() -> None:
    found = of_scale(table({"digits": (0.50, 0.90, 0.70), "location": (0.10, 0.15, 0.20)}))
    assert [(one.level, one.accuracy) for one in found.tasks["digits"]] == [
        (0.1, 0.50), (1.0, 0.90), (10.0, 0.70),
    ]  # fmt: skip
    # digits 0, 1, 0.5; location 0, 0.5, 1
    assert [one.score for one in found.normalised] == pytest.approx([0.0, 0.75, 0.75])
    assert [one.tasks for one in found.normalised] == [2, 2, 2]
    assert (found.informative, found.logarithmic, found.binned) == (2, True, False)


def test_a_level_has_the_expected_best_of_equally_many_trials() -> None:
    rows = table({"digits": (0.5, 0.9, 0.7)})
    rows.append(row("digits", 0.8, scale=0.1, rank=8))
    low, *_ = of_scale(rows).tasks["digits"]
    assert (low.accuracy, low.trials) == (pytest.approx(0.65), 2), "one of two: their mean"
    rows += [row("digits", value, scale=scale, rank=8) for scale, value in ((1, 0.6), (10, 0.2))]
    rows.append(row("digits", 0.3, scale=0.1, rank=16))
    # Two of 0.3, 0.5, 0.8: 0.5 in one of three cases, 0.8 in two.
    accuracies = [one.accuracy for one in of_scale(rows).tasks["digits"]]
    assert accuracies == pytest.approx([0.7, 0.9, 0.7])


def shaped(tasks: Sequence[str], gains: Mapping[float, float], trials: int) -> list[TrialResult]:
    """`trials` trials at each level, which other fields spread evenly over six points."""
    return [
        row(task, 0.5 + gain + 0.06 * rank / trials, scale=level, rank=rank)
        for task in tasks
        for level, gain in gains.items()
        for rank in range(trials)
    ]


def test_what_an_effect_supports_is_recommended() -> None:
    rows = shaped(("digits", "location"), {0.1: 0.0, 1.0: 0.1, 10.0: 0.05}, 4)
    found = of_scale(rows)
    assert found.recommended == 1.0
    assert found.p is not None and found.p < 0.01
    flat = of_scale(shaped(("digits", "location"), {0.1: 0.0, 1.0: 0.005, 10.0: 0.0}, 4))
    assert flat.p is not None and flat.p > 0.05
    assert flat.recommended is None
    tied = of_scale(shaped(("digits", "location"), {0.1: 0.0, 1.0: 0.2, 10.0: 0.2}, 4))
    assert tied.recommended == 1.0, "of equal scores the lower level"


def test_a_level_that_never_ran_to_its_end_is_not_recommended() -> None:
    rows = shaped(("digits",), {0.1: 0.0, 1.0: 0.1}, 6)
    rows += [row("digits", 0.9, "stopped", scale=10.0, rank=rank) for rank in range(6)]
    assert of_scale(rows).recommended == 1.0
    elsewhere = [row(task, 0.5, scale=scale) for task, scale in (("digits", 1), ("location", 10))]
    assert of_scale(elsewhere).p is None, "no task was tried at two levels"


def test_what_was_stopped_for_being_worse_shows_an_effect() -> None:
    rows = shaped(("digits", "location"), {0.1: 0.0, 1.0: 0.01}, 2)
    rows += [
        row(task, 0.1, "stopped", scale=scale, rank=rank)
        for task in ("digits", "location")
        for scale in (10.0, 100.0)
        for rank in range(2)
    ]
    found = of_scale(rows)
    assert found.p is not None and found.p < 0.05
    assert found.recommended == 1.0


def test_early_ends_count_only_where_nothing_else_does() -> None:
    rows = [
        row("digits", 0.6, scale=0.1, rank=2),
        row("digits", 0.9, "stopped", scale=0.1, rank=8),
        row("digits", 0.4, "stopped", scale=1.0, rank=2),
        row("digits", None, "diverged", scale=10.0, rank=2),
    ]
    levels = of_scale(rows).tasks["digits"]
    assert [(one.level, one.accuracy, one.ended_early) for one in levels] == [
        (0.1, 0.6, False), (1.0, 0.4, True),
    ]  # fmt: skip


def test_only_the_search_stage_is_read() -> None:
    rows = table({"digits": (0.5, 0.9, 0.7)})
    again = replace(rows[0], trial=replace(rows[0].trial, stage="replicate", seed=1), value=1.0)
    assert of_scale([*rows, again]) == of_scale(rows)


def test_a_task_without_variation_says_nothing() -> None:
    found = of_scale(table({"digits": (0.5, 0.5, 0.5), "location": (0.1, 0.2, 0.3)}))
    assert [one.score for one in found.normalised] == pytest.approx([0.0, 0.5, 1.0])
    assert found.informative == 1
    flat = of_scale(table({"digits": (0.5, 0.5, 0.5)}))
    assert (flat.normalised, flat.informative, flat.recommended) == ((), 0, None)


def test_a_level_that_a_task_lacks_is_not_recommended() -> None:
    rows = shaped(("digits", "location"), {0.1: 0.0, 1.0: 0.2, 10.0: 0.4}, 4)
    rows = [one for one in rows if one.trial.task == "digits" or one.trial.params["scale"] < 10]
    found = of_scale(rows)
    assert [one.tasks for one in found.normalised] == [2, 2, 1]
    assert found.normalised[-1].score == 1.0
    assert found.recommended == 1.0


def test_scale_comes_first_and_other_numbers_follow() -> None:
    rows = [
        row("digits", 0.5 + scale / 100 + rank / 100, scale=scale, rank=rank, init="vv", bias=flag)
        for scale in (1.0, 10.0)
        for rank in (2, 4)
        for flag in (True, False)
    ]
    sweep = space(bias=[True, False], init=["vv", "uu"], rank=[2, 4], scale=[1.0, 10.0])
    assert [item.field for item in sensitivities(rows, sweep)] == ["scale", "rank"]


def test_a_recipe_field_can_be_searched() -> None:
    rows = [
        result(trial("digits", "lora", {}, recipe=replace(RECIPE, lr=lr)), value)
        for lr, value in ((1e-3, 0.5), (5e-3, 0.7))
    ]
    (found,) = sensitivities(rows, space(lr=[1e-3, 5e-3]))
    assert (found.field, found.logarithmic) == ("lr", False)


def test_one_level_is_no_sensitivity() -> None:
    assert sensitivities([row("digits", 0.5, scale=1.0)], space(scale=[1.0, 10.0])) == ()
    assert sensitivities([], LORA) == ()


@pytest.mark.parametrize("log", [True, False])
def test_a_range_is_binned_on_its_own_axis(log: bool) -> None:
    values = [10 ** (-2 + 4 * step / 29) for step in range(30)]
    rows = [row("digits", 0.4 + step / 100, scale=v) for step, v in enumerate(values)]
    form = {"low": 0.01, "high": 100.0} | ({"log": True} if log else {})
    found = of_scale(rows, space(scale=form))
    assert found.binned
    assert found.logarithmic is log
    levels = found.tasks["digits"]
    assert sum(one.trials for one in levels) == 30
    assert len(levels) == BINS
    fewest = 5 if log else 1
    last = [0.4 + step / 100 for step in range(30)][-levels[-1].trials :]
    best = [max(some) for some in itertools.combinations(last, fewest)]
    assert levels[-1].accuracy == pytest.approx(fmean(best), abs=0.003)
    if log:
        assert [one.trials for one in levels] == [5] * BINS
        steps = [math.log10(b.level / a.level) for a, b in itertools.pairwise(levels)]
        assert steps == pytest.approx([4 / BINS] * (BINS - 1))


def test_choices_are_never_binned() -> None:
    choices = [0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0, 50.0, 60.0, 80.0, 90.0, 100.0]
    rows = [row("digits", 0.4 + step / 100, scale=v) for step, v in enumerate(choices)]
    found = of_scale(rows, space(scale=choices))
    assert not found.binned
    assert [one.level for one in found.tasks["digits"]] == choices
