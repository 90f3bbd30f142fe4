"""How many trials to train at once: measured, not guessed.

Widths are doubled while the device does more trial-steps per second and the memory lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

MOST = {"cpu": 4, "cuda": 64}
"""Trials in a stack, at most: more in flight would only keep a sampler from learning."""
_GAIN = 1.05
"""A width is worth more memory if its throughput is larger by this."""
_NEAR = 0.95
"""The narrowest width with so much of the best throughput is taken: slots free up sooner."""
_MEMORY = 0.9
"""Of the free memory, how much a planned width may take."""


@dataclass(frozen=True)
class Measured:
    """A training step at a width: seconds, and bytes in use above what was before."""

    width: int
    seconds: float
    memory: int

    @property
    def throughput(self) -> float:
        """Trial-steps per second."""
        return self.width / self.seconds


@dataclass(frozen=True)
class WidthPlan:
    """Trials at once, what was measured on the way, and what set the bound."""

    width: int
    measured: tuple[Measured, ...]
    bound: str

    @property
    def slot(self) -> int:
        """Bytes that one more trial takes; 0 if no two widths were measured."""
        if not self.measured:
            return 0
        first, last = self.measured[0], self.measured[-1]
        return max(last.memory - first.memory, 0) // max(last.width - first.width, 1)


def plan_width(measure: Callable[[int], Measured], free: int, most: int) -> WidthPlan:
    """Measures 1, 2, 4, … and stops where throughput or memory does.

    Args:
        measure: a step at a width; may run out of memory.
        free: bytes that the device has left.
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
            if not out_of_memory(error):
                raise
            bound = "memory"
            break
        if found[-1].throughput < _GAIN * found[-2].throughput:
            bound = "throughput"
            break
    best = max(step.throughput for step in found)
    chosen = next(step for step in found if step.throughput >= _NEAR * best)
    return WidthPlan(chosen.width, tuple(found), bound)


def out_of_memory(error: BaseException) -> bool:
    """Whether the device (or the host) had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text
    )


def _predicted(found: list[Measured]) -> float:
    """Bytes at the next width: what the last doubling added, twice over."""
    last = found[-1]
    before = found[-2].memory if len(found) > 1 else 0
    return last.memory + 2 * max(last.memory - before, last.memory // 2)
