"""Sensitivity of the accuracy to one searched field: per task, and normalised over tasks.

The analysis of figures 7 and 8 of the EFFT paper (arXiv 2311.06749). The accuracy of a task at a
level of the field is the best over all other searched fields.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeGuard

from orchestrator.analysis.aggregate import searched_values
from orchestrator.analysis.statistics import min_max
from orchestrator.spec import Sweep, TrialResult

MAX_LEVELS = 12
"""A range that was tried at more distinct values than this is binned."""
BINS = 6
LOG_RATIO = 30.0
"""Positive choices that span at least this ratio are shown on a logarithmic axis."""

Tried = tuple[Mapping[str, Any], TrialResult]
"""The searched values of a trial, and its row."""
Measured = Sequence[tuple[float, TrialResult]]


@dataclass(frozen=True)
class Level:
    """Best accuracy of a task at one level of the field, over `trials` trials.

    `ended_early`: no trial there ran to full length; `accuracy` is from an earlier epoch.
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
    varies with the field. `recommended` is the level with the highest normalised mean among those
    measured on every informative task (the lowest of equal ones); None if there is none.
    """

    adapter: str
    field: str
    logarithmic: bool
    binned: bool
    tasks: Mapping[str, tuple[Level, ...]]
    normalised: tuple[MeanLevel, ...]
    informative: int
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
    means, informative, recommended = _normalise(list(tasks.values()))
    return Sensitivity(adapter, name, logarithmic, binned, tasks, means, informative, recommended)


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
        best = max(row.value or 0.0 for row in finished or rows)
        found.append(Level(level, best, len(rows), not finished))
    return tuple(found)


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
    common = [item for item in means if item.tasks == informative]
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
