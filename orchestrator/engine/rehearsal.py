"""The width of a group, found by training steps that are thrown away."""

from __future__ import annotations

import time

import torch

from orchestrator.engine import memory
from orchestrator.engine.frozen import Frozen
from orchestrator.engine.group import Group
from orchestrator.engine.grouping import GroupKey
from orchestrator.engine.training import Training
from orchestrator.engine.width import MOST, Measured, WidthPlan, plan_width

_REPEATS = 2
_LONG = 1.0  # seconds: a step of this length needs no repetition


def rehearsed(
    key: GroupKey, frozen: Frozen, device: torch.device, training: Training, share: float
) -> WidthPlan:
    """Trains copies of a trial side by side, more and more of them, to see what pays.

    `share` is the part of the free memory that may be taken. The trial itself is left as it is.
    """

    def measure(width: int) -> Measured:
        group = Group(key, frozen, device, WidthPlan(width, (), "rehearsal"))
        for _ in range(width):
            group.enter(training.rehearsal())
        memory.forget_peak(device)
        before = memory.used(device)
        seconds = [_step(group)]  # the first also allocates: it counts only if it is long
        while seconds[0] < _LONG and len(seconds) <= _REPEATS:
            seconds.append(_step(group))
        if group.work.halved:
            raise torch.OutOfMemoryError(f"{width} trials at once")
        return Measured(width, min(seconds), max(memory.peak(device) - before, 0))

    return plan_width(measure, int(share * memory.free(device)), MOST.get(device.type, MOST["cpu"]))


def _step(group: Group) -> float:
    _wait(group.device)
    began = time.perf_counter()
    group.step()
    _wait(group.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
