"""Which arms there are and in which order they run: one after the other, round after round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from arms.calibrate import Choice
from arms.figures import ArmRun
from arms.launch import Arm, run

ARMS = ("script", "stock", "tuned", "pool")
Runs = dict[str, list[ArmRun]]
"""Arm → one run per round."""


def line_up(
    names: Sequence[str], widths: Sequence[int], choice: Choice, device: str, cores: int
) -> dict[str, Arm]:
    """The arms of those names in their order; `pool-<width>` for every width."""
    gpu = device == "cuda"
    lanes, threads = (1, None) if gpu else (cores, 1)
    asked = {"amp": choice.amp}
    one = {
        "script": Arm("script", options=asked),
        "stock": Arm("stock", own=False, inner=lanes, options={**asked, "cores": cores}),
        "tuned": choice.tuned,
    }
    arms = {name: one[name] for name in names if name in one}
    if "pool" in names:
        for width in widths:
            options = {"width": width}
            arms[f"pool-{width}"] = Arm(
                "pool", lanes, threads, slots=width, own=False, options=options
            )
    return arms


def rounds(
    arms: Mapping[str, Arm],
    folder: Path,
    trials: int,
    count: int,
    deadline: float,
    after: Callable[[Runs], None],
) -> dict[str, str]:
    """Runs every arm once per round and calls `after` with all runs so far.

    Each run has its share of what is left until `deadline` (of time.time); returns which runs were
    left out for want of time.
    """
    runs: Runs = {name: [] for name in arms}
    skipped: dict[str, str] = {}
    queue = [(number, name) for number in range(1, count + 1) for name in arms]
    for position, (number, name) in enumerate(queue):
        left = deadline - time.time()
        if left < 0:
            skipped[f"{name}, round {number}"] = "out of time"
            continue
        share = time.time() + left / (len(queue) - position)
        found = run(arms[name], folder, range(_enough(arms[name], trials)), share)
        runs[name].append(found)
        print(f"round {number}: {name} {found.seconds:.1f} s", flush=True)
        after(runs)
    return skipped


def _enough(arm: Arm, wanted: int) -> int:
    """At least as many trials as wanted, and as fill every slot the same number of times."""
    slots = (arm.inner or arm.lanes) * arm.slots
    return -(-wanted // slots) * slots
