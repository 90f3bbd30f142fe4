"""Notes what a pool makes of its device, every few seconds of its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from orchestrator.engine import memory, roofline
from orchestrator.engine.group import Group, WorkDone
from orchestrator.engine.grouping import incompatible_because
from orchestrator.engine.pool import Pool
from orchestrator.results import throughput
from orchestrator.results.throughput import GroupUse, Window
from orchestrator.storage.retry import log

PERIOD = 10.0
"""Seconds of work between two lines; fewer where the work ends for now."""
PAUSE = 1.0


class Meter:
    """Of one pool's process; the device's rate is measured when it is made.

    `publish` is called with the file after each line.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        device: torch.device,
        publish: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._folder, self._name, self._device = folder, name, device
        self._publish = publish
        self._rate = roofline.rate(device)
        self._busy = 0.0
        self._before = WorkDone()

    def begin(self) -> None:
        """A new pool begins: it has done nothing yet."""
        self._busy, self._before = 0.0, WorkDone()

    def worked(self, seconds: float, pool: Pool) -> None:
        """Notes a step that took so long; writes a line if one is due."""
        self._busy += seconds
        if self._busy >= (PERIOD if pool.running else PAUSE):
            self.write(pool)

    def write(self, pool: Pool) -> None:
        """A line for what was done since the last one; none if that is nothing."""
        done, before = pool.work, self._before
        if done.steps == before.steps:
            return
        window = Window(
            self._name,
            _named(self._device),
            time.time(),
            self._busy,
            done.trained - before.trained,
            done.evaluated - before.evaluated,
            done.flops - before.flops,
            self._rate,
            memory.peak(self._device),
            uses(pool.groups),
        )
        try:
            throughput.append(self._folder, window)
        except OSError as error:  # for people: what is not written now, the next line counts too
            log.warning("not noted in '%s': %s", self._folder, error)
            return
        self._busy, self._before = 0.0, done
        self._publish(throughput.file_of(self._folder, self._name))


def uses(groups: Sequence[Group]) -> tuple[GroupUse, ...]:
    """The groups as they are reported."""
    before = [None, *groups]
    return tuple(_use(group, other) for group, other in zip(groups, before, strict=False))


def _use(group: Group, before: Group | None) -> GroupUse:
    return GroupUse(
        label=group.key.label(),
        width=group.width,
        planned=group.plan.width,
        bound=group.plan.bound,
        slot=group.plan.slot,
        trained=group.work.trained,
        halved=group.work.halved,
        apart="" if before is None else incompatible_because(before.key, group.key),
    )


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
