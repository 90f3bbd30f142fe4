"""The settings of a pool's process; free of torch and Ray, so that every process can read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.spec import Suite
from orchestrator.storage.sweep_paths import SweepPaths

Decision = Literal["continue", "stop"]
"""What happens to a trial at a rung."""


@dataclass(frozen=True)
class PoolConfig:
    """What a pool's process must know.

    Attributes:
        out: the sweep's folder, or the command's working copy of it.
        data_root: where prepared tasks are.
        suite: definitions of the tasks.
        backbone: name of the frozen backbone.
        weights: fingerprint that the backbone's weights must have.
        stopping: name of the stopping rule, for the records of stopped trials.
        lease: token of the command that the pool works for.
        checkpoint_seconds: least time between two checkpoints of a trial; 0 writes one after every
            epoch.
        storage_timeout: seconds for which refused storage operations are retried.
        width: trials in a stack; None measures what pays.
        uri: the sweep's address in an object store; empty for a plain folder.
    """

    out: Path
    data_root: Path
    suite: Suite
    backbone: str
    weights: str
    stopping: str
    lease: str
    checkpoint_seconds: float = 60.0
    storage_timeout: float = 300.0
    width: int | None = None
    uri: str = ""

    @property
    def paths(self) -> SweepPaths:
        """The sweep's paths on the command's machine."""
        return SweepPaths(self.out, self.uri)
