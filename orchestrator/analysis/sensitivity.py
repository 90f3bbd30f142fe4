"""How val accuracy depends on one searched field: per task, and normalised over tasks.

The analysis of EFFT's figures 7 and 8. At each level of the field a task's accuracy is the best over
all other searched fields: what one can reach with that level after tuning the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeGuard

from orchestrator.analysis.aggregate import own_rows, searched_values
from orchestrator.analysis.statistics import min_max
from orchestrator.spec import Sweep, TrialResult

MAX_LEVELS = 12
"""A field with more distinct values than this was searched continuously, and is binned."""
BINS = 6
LOG_RATIO = 30.0
"""Positive values spanning at least this ratio are read on a logarithmic axis."""

Measured = Sequence[tuple[float, TrialResult]]


@dataclass(frozen=True)
class Level:
    """Best val accuracy of a task at one level of the field, over `trials` trials.

    `ended_early`: no trial there ran to full length, so `accuracy` is from an earlier epoch.
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
    """One field of one adapter. `levels` are ascending; binned ones are the centres of their bins.

    `normalised` leaves out tasks whose accuracy does not vary with the field. `recommended` is the
    level with the highest score among those measured on every remaining task; None if there is none.
    """

    adapter: str
    field: str
    logarithmic: bool
    binned: bool
    tasks: Mapping[str, tuple[Level, ...]]
    normalised: tuple[MeanLevel, ...]
    recommended: float | None


def sensitivities(results: Iterable[TrialResult], sweep: Sweep) -> tuple[Sensitivity, ...]:
    """One record for every searched numeric field with two levels or more, `scale` first.

    Reads search-stage rows; at a level where every trial was stopped early the best of those counts,
    marked. Diverged trials have no accuracy and leave their level empty.
    """
    rows = [
        row
        for row in own_rows(results, sweep)
        if row.trial.stage == "search" and row.value is not None
    ]
    found = (
        _field(adapter, name, rows, sweep)
        for adapter in sweep.adapters
        for name in sorted(sweep.spaces.get(adapter, {}), key=lambda name: (name != "scale", name))
    )
    return tuple(item for item in found if item)


def _field(
    adapter: str, name: str, rows: Iterable[TrialResult], sweep: Sweep
) -> Sensitivity | None:
    values = (
        (searched_values(row.trial, sweep).get(name), row)
        for row in rows
        if row.trial.adapter == adapter
    )
    measured = [(float(value), row) for value, row in values if _is_number(value)]
    distinct = sorted({value for value, _ in measured})
    if len(distinct) < 2:
        return None
    logarithmic = distinct[0] > 0 and distinct[-1] / distinct[0] >= LOG_RATIO
    binned = len(distinct) > MAX_LEVELS
    if binned:
        centres = _centres(distinct[0], distinct[-1], logarithmic)
        measured = [(_nearest(value, centres, logarithmic), row) for value, row in measured]
    tasks = {
        task: _levels([item for item in measured if item[1].trial.task == task])
        for task in sweep.tasks
    }
    normalised, recommended = _normalise(list(tasks.values()))
    return Sensitivity(adapter, name, logarithmic, binned, tasks, normalised, recommended)


def _levels(measured: Measured) -> tuple[Level, ...]:
    return tuple(
        _level(level, [row for value, row in measured if value == level])
        for level in sorted({value for value, _ in measured})
    )


def _level(level: float, rows: Sequence[TrialResult]) -> Level:
    finished = [row for row in rows if row.status == "finished"]
    best = max(row.value or 0.0 for row in finished or rows)
    return Level(level, best, len(rows), not finished)


def _normalise(
    tasks: Sequence[Sequence[Level]],
) -> tuple[tuple[MeanLevel, ...], float | None]:
    """Mean normalised accuracy per level, and the best level among those every task measured."""
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
    return means, best.level if best else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _centres(low: float, high: float, logarithmic: bool) -> list[float]:
    """Centres of `BINS` bins of equal width between the ends, on the field's own axis."""
    start, stop = (math.log(low), math.log(high)) if logarithmic else (low, high)
    width = (stop - start) / BINS
    middle = [start + (index + 0.5) * width for index in range(BINS)]
    return [math.exp(value) for value in middle] if logarithmic else middle


def _nearest(value: float, centres: Sequence[float], logarithmic: bool) -> float:
    def distance(centre: float) -> float:
        return abs(math.log(value / centre)) if logarithmic else abs(value - centre)

    return min(centres, key=distance)
