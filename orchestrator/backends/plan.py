"""What a pool's process must know; free of torch and Ray, so that it travels anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.spec import Suite

Decision = Literal["continue", "stop"]
WIDTHS = {"CPU": 4, "GPU": 16}
"""Trials at once in the pool of a device, unless the user says otherwise."""


@dataclass(frozen=True)
class HostPlan:
    """What a pool's process must know. `lease` is the token of the command it works for."""

    out: Path
    data_root: Path
    suite: Suite
    backbone: str
    weights: str
    stopping: str
    lease: str
    checkpoint_seconds: float = 60.0
