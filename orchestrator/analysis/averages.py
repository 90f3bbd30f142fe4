"""Averages over tasks, comparisons of adapters, and their ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

import numpy as np

from orchestrator.analysis.statistics import (
    EQUAL,
    Answers,
    Estimate,
    Floats,
    Variance,
    average,
    critical_difference,
    difference_over_images,
    friedman,
    holm,
    interquartile_mean,
    iqm_interval,
    over_seeds,
    ranks,
    sample_std,
    t_interval,
    total,
    two_sided,
    why_undefined,
)
from orchestrator.analysis.summary import (
    AdapterSummary,
    Best,
    Comparison,
    Question,
    Ranking,
    StudySummary,
)

BASELINE = "linear"
"""The adapter that the others are compared with first."""

Studies = Sequence[StudySummary]
Tables = Mapping[tuple[str, str], Answers | None]
"""(task, adapter) → which test images the final seeds had right; None if not known."""


def over_tasks(adapter: str, studies: Studies, tables: Tables) -> AdapterSummary:
    """The adapter's averages over tasks, each only where all of its tasks are complete."""
    own = [study for study in studies if study.adapter == adapter]
    groups = {
        name: [study for study in own if study.group == name]
        for name in dict.fromkeys(study.group for study in own)
    }
    complete = bool(own) and not any(study.missing for study in own)
    scores = [study.test.values for study in own]
    winners = [study.winner for study in own if study.winner]
    return AdapterSummary(
        adapter=adapter,
        groups={name: mean_of([found], tables) for name, found in groups.items()},
        mean_tasks=mean_of([own], tables),
        default=_mean_default(own),
        ensemble=_mean_ensemble(own),
        mean_groups=mean_of(list(groups.values()), tables),
        iqm=interquartile_mean(scores) if complete else None,
        iqm_interval=iqm_interval(scores) if complete else None,
        parameters=fmean(item.parameters for item in winners) if winners else None,
        device_seconds=sum(study.device_seconds for study in own),
        missing=tuple(study.task for study in own if study.missing),
    )


def _mean_default(own: Studies) -> Estimate:
    values = [study.default.values for study in own]
    return average(values, [1 / len(own)] * len(own)) if own and all(values) else average([], [])


def _mean_ensemble(own: Studies) -> float | None:
    found = [study.probabilities.ensemble for study in own if study.probabilities is not None]
    means = [one.mean for one in found if one is not None and one.mean is not None]
    return fmean(means) if own and len(means) == len(own) else None


def mean_of(parts: Sequence[Studies], tables: Tables) -> Estimate:
    """The mean over `parts` of the mean over each part's studies, if all of them are complete."""
    own = [study for part in parts for study in part]
    if not own or any(study.missing for study in own):
        return average([], [])
    weights = [1 / len(parts) / len(part) for part in parts for _ in part]
    answers = [tables.get((study.task, study.adapter)) for study in own]
    return average([study.test.values for study in own], weights, answers)


def best_adapters(studies: Studies, comparisons: Sequence[Comparison]) -> tuple[Best, ...]:
    """The best adapter of each task that has any final trial, in the order of tasks."""
    told = {
        frozenset((item.task, item.adapter, item.other))
        for item in comparisons
        if item.question == "task" and item.told
    }
    found = []
    for task in dict.fromkeys(study.task for study in studies):
        measured = [study for study in studies if study.task == task and study.test.values]
        if measured:
            top, *others = sorted(measured, key=lambda study: -(study.test.mean or 0.0))
            names = [study.adapter for study in others]
            untold = (n for n in names if frozenset((task, top.adapter, n)) not in told)
            found.append(Best(task, top.adapter, tuple(untold)))
    return tuple(found)


def compare(studies: Studies, tables: Tables) -> tuple[Comparison, ...]:
    """Every pair of adapters on each task that both have, then over tasks if both have them all."""
    by_task: dict[str, dict[str, StudySummary]] = {}
    for study in studies:
        by_task.setdefault(study.task, {})[study.adapter] = study
    names = sorted(dict.fromkeys(study.adapter for study in studies), key=BASELINE.__ne__)
    pairs = [(later, earlier) for earlier, later in combinations(names, 2)]
    found: list[Comparison] = []
    for own in by_task.values():
        measured = [pair for pair in pairs if all(own[name].test.values for name in pair)]
        found += _adjusted(_on_a_task(own[a], own[b], tables) for a, b in measured)
    complete = [
        (a, b)
        for a, b in pairs
        if not any(own[name].missing for own in by_task.values() for name in (a, b))
    ]

    def side(name: str) -> list[StudySummary]:
        return [own[name] for own in by_task.values()]

    found += _adjusted(_on_these_tasks(side(a), side(b), tables) for a, b in complete)
    found += _adjusted(_on_tasks_like_these(side(a), side(b)) for a, b in complete)
    return tuple(found)


def rank(studies: Studies) -> Ranking | None:
    """Mean ranks of the adapters that are complete; None below three adapters or three tasks."""
    missing = {study.adapter for study in studies if study.missing}
    means = {
        (study.task, study.adapter): study.test.mean or 0.0
        for study in studies
        if study.adapter not in missing
    }
    tasks = list(dict.fromkeys(task for task, _ in means))
    names = list(dict.fromkeys(name for _, name in means))
    if min(len(tasks), len(names)) < 3:
        return None
    table = np.array([[means[task, name] for name in names] for task in tasks])
    mean_ranks = ranks(table).mean(0)
    return Ranking(
        ranks=dict(zip(names, mean_ranks.tolist(), strict=True)),
        win_rates=dict(zip(names, _win_rates(mean_ranks).tolist(), strict=True)),
        tasks=len(tasks),
        p=friedman(table),
        critical=critical_difference(len(names), len(tasks)),
    )


def _win_rates(mean_ranks: Floats) -> Floats:
    return (len(mean_ranks) - mean_ranks) / (len(mean_ranks) - 1)


def _on_a_task(one: StudySummary, other: StudySummary, tables: Tables) -> Comparison:
    difference = (one.test.mean or 0.0) - (other.test.mean or 0.0)
    variance = _between(one, other, tables)
    why = _unknown([one, other])
    return _tested(one.adapter, other.adapter, one.task, "task", difference, variance, why)


def _on_these_tasks(ones: Studies, others: Studies, tables: Tables) -> Comparison:
    pairs = list(zip(ones, others, strict=True))
    variances = [_between(one, other, tables) for one, other in pairs]
    known = [variance for variance in variances if variance is not None]
    variance = total(known).scaled(1 / len(pairs) ** 2) if len(known) == len(pairs) else None
    difference, names = fmean(_differences(ones, others)), (ones[0].adapter, others[0].adapter)
    why = _unknown([*ones, *others])
    return _tested(*names, None, "these tasks", difference, variance, why)


def _unknown(studies: Studies) -> str:
    """Why the variance of a difference between studies is not known, if it is not."""
    few = any(len(study.test.values) < 2 for study in studies)
    return "one seed" if few else "no matching results per image"


def _on_tasks_like_these(ones: Studies, others: Studies) -> Comparison:
    found = _differences(ones, others)
    alike = "the same difference on every task" if why_undefined(found) else ""
    why = "one task" if len(found) == 1 else alike
    variance = None if why else over_seeds(found)  # of the tasks, as a sample
    question: Question = "tasks like these"
    names, mean, std = (ones[0].adapter, others[0].adapter), fmean(found), sample_std(found)
    return replace(
        _tested(*names, None, question, mean, variance, why),
        effect=None if why or not std else mean / std,
        won=sum(one > EQUAL for one in found),
        lost=sum(one < -EQUAL for one in found),
    )


def _differences(ones: Studies, others: Studies) -> list[float]:
    pairs = zip(ones, others, strict=True)
    return [(one.test.mean or 0.0) - (other.test.mean or 0.0) for one, other in pairs]


def _between(one: StudySummary, other: StudySummary, tables: Tables) -> Variance | None:
    """Of the difference of two studies of a task, over seeds and images; None if not known."""
    first, second = (tables.get((study.task, study.adapter)) for study in (one, other))
    if first is None or second is None or first.images != second.images:
        return None
    return difference_over_images(first, second)


def _tested(
    adapter: str,
    other: str,
    task: str | None,
    question: Question,
    difference: float,
    variance: Variance | None,
    undefined: str,
) -> Comparison:
    if variance is None:
        return Comparison(adapter, other, task, question, difference, undefined=undefined)
    interval = t_interval(difference, variance, bounded=False)
    p = two_sided(difference, variance)
    return Comparison(adapter, other, task, question, difference, interval, p)


def _adjusted(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """With Holm's p, over those that were tested."""
    found = list(comparisons)
    adjusted = iter(holm([item.p for item in found if item.p is not None]))
    return [item if item.p is None else replace(item, adjusted=next(adjusted)) for item in found]
