"""The width of a group (trials trained at once), found by a warm-up benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from orchestrator.engine import memory
from orchestrator.engine.roofline import synchronize

MAX_WIDTH = {"cpu": 4, "cuda": 64}
"""Upper bound: with more trials in flight a sampler learns from fewer results."""
_GAIN = 1.05
"""The least ratio of throughputs for which the width is doubled again."""
_NEAR = 0.95
"""The narrowest width with this part of the best throughput is taken: slots free up sooner."""
_MEMORY = 0.9
"""Of the free memory, the part that a planned width may take."""
_REPEATS = 2
_LONG = 1.0  # seconds: a step of this length is not repeated


@dataclass(frozen=True)
class WidthMeasurement:
    """A training step at a width: seconds, and bytes above those in use before."""

    width: int
    seconds: float
    memory: int

    @property
    def throughput(self) -> float:
        """Trial-steps per second."""
        return self.width / self.seconds


@dataclass(frozen=True)
class WidthPlan:
    """The chosen width, the measurements behind it, and what bounded it.

    `compiled` says whether full stacks run compiled blocks.
    """

    width: int
    measured: tuple[WidthMeasurement, ...]
    bound: str
    compiled: bool = False

    @property
    def slot(self) -> int:
        """Bytes per additional trial; 0 if fewer than two widths were measured."""
        if not self.measured:
            return 0
        first, last = self.measured[0], self.measured[-1]
        return max(last.memory - first.memory, 0) // max(last.width - first.width, 1)


def plan_width(measure: Callable[[int], WidthMeasurement], free: int, most: int) -> WidthPlan:
    """Measure widths 1, 2, 4, … until throughput or memory stops growth.

    Args:
        measure: measures a step at a width; may run out of memory.
        free: bytes that the group may take.
        most: the largest width to try.

    Raises what `measure(1)` raises: a device that cannot hold one trial.
    """
    found = [measure(1)]
    bound = f"at most {most}"
    while (width := 2 * found[-1].width) <= most:
        if _predicted(found) > _MEMORY * free:
            bound = "memory"
            break
        try:
            found.append(measure(width))
        except (RuntimeError, MemoryError) as error:
            if not memory.out_of_memory(error):
                raise
            bound = "memory"
            break
        if found[-1].throughput < _GAIN * found[-2].throughput:
            bound = "throughput"
            break
    best = max(step.throughput for step in found)
    chosen = next(step for step in found if step.throughput >= _NEAR * best)
    return WidthPlan(chosen.width, tuple(found), bound)


def measure_step(step: Callable[[], object], width: int, device: torch.device) -> WidthMeasurement:
    """The shortest of a few steps, and their peak memory."""
    memory.reset_peak(device)
    before = memory.used(device)
    seconds = [_seconds(step, device)]  # the first also allocates: it counts only if it is long
    while seconds[0] < _LONG and len(seconds) <= _REPEATS:
        seconds.append(_seconds(step, device))
    return WidthMeasurement(width, min(seconds), max(memory.peak(device) - before, 0))


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - began


def _predicted(found: list[WidthMeasurement]) -> float:
    """Bytes at the next width: the last width's, plus twice the last increase."""
    last = found[-1]
    before = found[-2].memory if len(found) > 1 else 0
    return last.memory + 2 * max(last.memory - before, last.memory // 2)
