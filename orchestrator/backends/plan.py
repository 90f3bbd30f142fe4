"""What a pool's process must know; free of torch and Ray, so that it travels anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.spec import Suite
from orchestrator.storage.sweep_paths import SweepPaths

Decision = Literal["continue", "stop"]
GUESSES = {"CPU": 1, "GPU": 16}
"""Trials at once in the pool of a device, as long as no pool has measured what pays there."""
ROOMS = {"CPU": 8, "GPU": 32}
"""Trials that a device has room for at first."""


def spare(slots: int) -> int:
    """Trials that wait in a pool of so many slots, so that a slot is refilled at once."""
    return max(slots // 4, 1)


@dataclass(frozen=True)
class HostPlan:
    """What a pool's process must know.

    `lease` is the token of the command it works for; `width` the slots of a stack as the user wants
    them, None: as measured. A trial's checkpoints are `checkpoint_seconds` apart at least (0: one
    after every epoch); storage that refuses is borne with for `storage_patience` seconds. A sweep
    in an object store lies at `uri`, and `out` is the command's working copy.
    """

    out: Path
    data_root: Path
    suite: Suite
    backbone: str
    weights: str
    stopping: str
    lease: str
    checkpoint_seconds: float = 60.0
    storage_patience: float = 300.0
    width: int | None = None
    uri: str = ""

    @property
    def paths(self) -> SweepPaths:
        """Where the command has the sweep."""
        return SweepPaths(self.out, self.uri)
