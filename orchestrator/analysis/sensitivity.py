"""Sensitivity of the accuracy to one searched field: per task, and normalised over tasks.

The analysis of figures 7 and 8 of the EFFT paper (arXiv 2311.06749). The accuracy of a task at a
level of the field is the best over all other searched fields, at an equal number of trials: the
maximum of many trials is higher than that of few, whatever the field does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeGuard

import numpy as np

from orchestrator.analysis.aggregate import searched_values
from orchestrator.analysis.statistics import expected_best, min_max
from orchestrator.analysis.summary import ALPHA
from orchestrator.spec import Sweep, TrialResult

MAX_LEVELS = 12
"""A range that was tried at more distinct values than this is binned."""
BINS = 6
LOG_RATIO = 30.0
"""Positive choices that span at least this ratio are shown on a logarithmic axis."""
PERMUTATIONS = 999
"""Of the test that a field has an effect."""

Tried = tuple[Mapping[str, Any], TrialResult]
"""The searched values of a trial, and its row."""
Measured = Sequence[tuple[float, TrialResult]]


@dataclass(frozen=True)
class Level:
    """Accuracy of a task at one level of the field, where `trials` trials were made.

    `accuracy` is the expected best of as many of them, drawn at random, as the level of the task
    with the fewest has. `ended_early`: no trial there ran to full length; `accuracy` is from an
    earlier epoch.
    """

    level: float
    accuracy: float
    trials: int
    ended_early: bool


@dataclass(frozen=True)
class MeanLevel:
    """Mean over `tasks` tasks of their min-max normalised accuracy at one level."""

    level: float
    score: float
    tasks: int


@dataclass(frozen=True)
class Sensitivity:
    """One field of one adapter. Levels ascend; those of a binned field are the bins' centres.

    `tasks` is task → levels. `normalised` is over the `informative` tasks: those whose accuracy
    varies with the field. `p` is that of a permutation test that the field has no effect (None
    where no task was tried at two levels). If it is below 5 %, `recommended` is the
    level with the highest normalised mean among those with full-length trials on every informative
    task (the lowest of equal ones); else None.
    """

    adapter: str
    field: str
    logarithmic: bool
    binned: bool
    tasks: Mapping[str, tuple[Level, ...]]
    normalised: tuple[MeanLevel, ...]
    informative: int
    p: float | None
    recommended: float | None


def sensitivities(rows: Iterable[TrialResult], sweep: Sweep) -> tuple[Sensitivity, ...]:
    """One record for every searched numeric field with two levels or more, `scale` first.

    Reads the search stage of `rows` (the sweep's own). Stopped trials count only at a level without
    finished ones; diverged trials have no accuracy and do not count.
    """
    searched: defaultdict[str, list[Tried]] = defaultdict(list)
    for row in rows:
        if row.trial.stage == "search" and row.value is not None:
            searched[row.trial.adapter].append((searched_values(row.trial, sweep), row))
    found = (
        _field(adapter, name, searched[adapter], sweep)
        for adapter in sweep.adapters
        for name in sorted(sweep.spaces.get(adapter, {}), key=lambda name: (name != "scale", name))
    )
    return tuple(item for item in found if item)


def _field(adapter: str, name: str, tried: Sequence[Tried], sweep: Sweep) -> Sensitivity | None:
    values = ((fields.get(name), row) for fields, row in tried)
    measured = [(float(value), row) for value, row in values if _is_number(value)]
    distinct = sorted({value for value, _ in measured})
    if len(distinct) < 2:
        return None
    form = sweep.spaces[adapter][name]
    logarithmic = _logarithmic(form, distinct)
    binned = isinstance(form, Mapping) and len(distinct) > MAX_LEVELS
    if binned:
        centres = _centres(distinct[0], distinct[-1], logarithmic)
        measured = [(_nearest(value, centres, logarithmic), row) for value, row in measured]
    tasks = {
        task: _levels([item for item in measured if item[1].trial.task == task])
        for task in sweep.tasks
    }
    means, informative, best = _normalise(list(tasks.values()))
    p = _without_effect(
        [[item for item in measured if item[1].trial.task == task] for task in sweep.tasks]
    )
    recommended = best if p is not None and p < ALPHA else None
    return Sensitivity(
        adapter, name, logarithmic, binned, tasks, means, informative, p, recommended
    )


def _without_effect(tasks: Sequence[Measured]) -> float | None:
    """p of a permutation test: levels are dealt anew among a task's trials.

    The statistic is the spread over levels of their accuracies (as in `_levels`), each task's minus
    its mean, summed over tasks. Trials of a task are exchangeable if the field does nothing, those
    that were stopped early among them; a sampler that prefers some levels does not change that.
    """
    tables = [
        (np.array([value for value, _ in own]), np.array([row.value or 0.0 for _, row in own]))
        for own in tasks
        if len({value for value, _ in own}) > 1
    ]
    if not tables:
        return None
    rng = np.random.default_rng(0)
    every = sorted({level for levels, _ in tables for level in levels.tolist()})
    sums = np.zeros((1 + PERMUTATIONS, len(every)))
    for levels, accuracies in tables:
        drawn = rng.permuted(np.tile(accuracies, (PERMUTATIONS, 1)), axis=1)
        values = np.concatenate([accuracies[None, :], drawn])
        own = sorted(set(levels.tolist()))
        fewest = min(int((levels == level).sum()) for level in own)
        best = np.stack([expected_best(values[:, levels == level], fewest) for level in own], 1)
        columns = [every.index(level) for level in own]
        sums[:, columns] += best - best.mean(1, keepdims=True)
    spread = (sums**2).sum(1)
    return float(np.mean(spread >= spread[0] - 1e-12))  # the order found is one of them


def _logarithmic(form: Any, distinct: Sequence[float]) -> bool:
    """As a range states; choices are logarithmic if they span `LOG_RATIO`."""
    if isinstance(form, Mapping):
        return bool(form.get("log"))
    return distinct[0] > 0 and distinct[-1] / distinct[0] >= LOG_RATIO


def _levels(measured: Measured) -> tuple[Level, ...]:
    found = []
    for level in sorted({value for value, _ in measured}):
        rows = [row for value, row in measured if value == level]
        finished = [row for row in rows if row.status == "finished"]
        values = [row.value or 0.0 for row in finished or rows]
        found.append((level, values, len(rows), not finished))
    fewest = min((len(values) for _, values, _, _ in found), default=0)
    return tuple(
        Level(level, float(expected_best(np.array([values]), fewest)[0]), trials, early)
        for level, values, trials, early in found
    )


def _normalise(
    tasks: Sequence[Sequence[Level]],
) -> tuple[tuple[MeanLevel, ...], int, float | None]:
    """Normalised means per level, the number of informative tasks, the recommended level."""
    scores: dict[float, list[float]] = {}
    informative = 0
    for levels in tasks:
        scaled = min_max([item.accuracy for item in levels]) if levels else None
        informative += scaled is not None
        for item, score in zip(levels, scaled or [], strict=False):
            scores.setdefault(item.level, []).append(score)
    means = tuple(
        MeanLevel(level, fmean(found), len(found)) for level, found in sorted(scores.items())
    )
    early = {item.level for levels in tasks for item in levels if item.ended_early}
    common = [item for item in means if item.tasks == informative and item.level not in early]
    best = max(common, key=lambda item: item.score, default=None)
    return means, informative, best.level if best else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _centres(low: float, high: float, logarithmic: bool) -> list[float]:
    """Centres of `BINS` bins of equal width on the field's (linear or logarithmic) axis."""
    start, stop = (math.log(low), math.log(high)) if logarithmic else (low, high)
    width = (stop - start) / BINS
    middle = [start + (index + 0.5) * width for index in range(BINS)]
    return [math.exp(value) for value in middle] if logarithmic else middle


def _nearest(value: float, centres: Sequence[float], logarithmic: bool) -> float:
    def distance(centre: float) -> float:
        return abs(math.log(value / centre)) if logarithmic else abs(value - centre)

    return min(centres, key=distance)
