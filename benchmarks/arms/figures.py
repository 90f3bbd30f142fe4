"""From what happened when to figures: pure arithmetic, no torch.

A lane is a place where one process of an arm runs at a time; a slot is a place for one trial in it.
`script` has one lane of one slot, a pool of width 8 on each of two cores two lanes of eight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from statistics import fmean, stdev
from typing import Any

MINUTE = 60.0
FLOOR = 0.01
"""Arms agree if their mean accuracies differ by less than this, or by less than two errors."""


@dataclass(frozen=True)
class Process:
    """Times in seconds of one clock; `epochs` are (time, trials that ended an epoch then)."""

    began: float
    stepped: float
    epochs: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class ArmRun:
    """One arm in one round. `free` seconds were spent on the benchmark's own questions."""

    began: float
    ended: float
    lanes: int
    slots: int
    processes: tuple[Process, ...]
    accuracies: Mapping[int, float | None]
    free: float = 0.0
    per_trial: bool = True
    """Whether every trial has a process of its own, which it waits for."""
    device_mib: float = 0.0
    host_mib: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time from the start of the first process to the end of the last."""
        return self.ended - self.began - self.free / self.lanes

    @property
    def trial_epochs(self) -> int:
        return sum(count for process in self.processes for _, count in process.epochs)

    @property
    def before(self) -> float:
        """Seconds until the first process is there: Ray's own start, next to nothing elsewhere."""
        return min(process.began for process in self.processes) - self.began

    @property
    def startup(self) -> float:
        """Seconds from the arm's start to the end of a process's first step, mean over those."""
        return self.before + fmean(process.stepped - process.began for process in self.processes)

    @property
    def whole(self) -> float:
        """Trial-epochs per minute, everything counted."""
        return MINUTE * self.trial_epochs / self.seconds

    @property
    def steady(self) -> float | None:
        """Trial-epochs per minute of all lanes, after the first epoch of each process.

        None if no process had a second one.
        """
        spans, count = 0.0, 0
        for process in self.processes:
            (first, _), *rest = process.epochs
            if rest:
                spans += rest[-1][0] - first
                count += sum(number for _, number in rest)
        return MINUTE * self.lanes * count / spans if count else None

    def minutes(self, trials: int, epochs: int) -> float:
        """Predicted for so many trials: what starting costs, and waves of steady epochs.

        What this run took beyond its steady epochs is the cost of starting: of every trial where
        each has its process, else of the lanes once; what came before the first process is paid
        once. A wave fills all slots; one that fills fewer is taken to last as long.
        """
        slots = self.lanes * self.slots
        wave = slots * epochs * MINUTE / (self.steady or self.whole)
        waves = ceil(self.trial_epochs / epochs / slots)
        starting = max(0.0, self.seconds - self.before - waves * wave)
        each = starting / waves if self.per_trial else 0.0
        once = self.before if self.per_trial else self.before + starting
        return (once + ceil(trials / slots) * (each + wave)) / MINUTE


def ratio(one: float | None, other: float | None) -> float | None:
    """one / other, where both were measured."""
    return None if one is None or not other else one / other


def compare(
    own: Mapping[int, float | None], base: Mapping[int, float | None]
) -> dict[str, float | int | str | None]:
    """Accuracies of the same trials in two arms: the paired difference, its error, a verdict."""
    pairs = [(own[t], base[t]) for t in own if t in base]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    mean, sd = spread(differences)
    error = None if sd is None else sd / sqrt(len(differences))
    return {
        "trials": len(differences),
        "difference": None if mean is None else round(mean, 4) + 0.0,  # no -0.0
        "error": None if error is None else round(error, 4),
        "verdict": _verdict(pairs, mean, error),
    }


def _verdict(
    pairs: Sequence[tuple[float | None, float | None]], mean: float | None, error: float | None
) -> str:
    if not pairs:
        return "no common trial"
    if any((a is None) != (b is None) for a, b in pairs):
        return "diverged in one only"
    if mean is None:
        return "all diverged"
    return "agrees" if abs(mean) <= max(FLOOR, 2 * (error or 0.0)) else "differs"


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation, as far as there are enough values."""
    return (fmean(values) if values else None), (stdev(values) if len(values) > 1 else None)
