"""The arms, their settings (calibrated before they count) and the order in which they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from arms.figures import ArmRun
from arms.launch import Arm, run

ARMS = ("script", "stock", "tuned", "pool")
Runs = dict[str, list[ArmRun]]
"""Arm → one run per round."""


@dataclass(frozen=True)
class Choice:
    """Autocast for `script` and `stock`, how `tuned` runs, and the figures that decided it."""

    amp: bool
    tuned: Arm
    figures: dict[str, Any] = field(default_factory=dict)


def calibrate(folder: Path, device: str, cores: int, arms: Sequence[str]) -> Choice:
    """Tries each arm's variants on whole trials; only those of `arms`, others take a safe one.

    What counts is the time of whole trials, everything included: compiling pays only if it is
    earned back within a trial. The compiler's cache is filled by a first trial that is not counted.
    """
    gpu = device == "cuda"
    spread = Arm("tuned", 1 if gpu else cores, None if gpu else 1, options={"compiled": False})
    amp, tuned, figures = gpu, spread, {}
    if "script" in arms and not gpu:  # on a GPU the scripts have autocast
        tried = {
            flag: _tried(Arm("script", options={"amp": flag}), folder) for flag in (False, True)
        }
        amp = tried[True]["whole"] > tried[False]["whole"]
        figures["script"] = {f"autocast {flag}": found for flag, found in tried.items()}
    if "tuned" in arms:
        compiled = Arm("tuned", spread.lanes, spread.threads, options={"compiled": True})
        variants = {"eager": spread, "compiled": compiled}
        if not gpu and cores > 1:
            variants["eager, all cores"] = Arm("tuned", 1, cores, options={"compiled": False})
        own: dict[str, Any] = {}
        for name, arm in variants.items():
            try:
                own[name] = _cold(arm, folder) | _tried(arm, folder)
            except RuntimeError as error:  # a machine without a C compiler cannot compile
                own[name] = {"failed": str(error)[-500:]}
        worked = [name for name in own if "whole" in own[name]]
        best = max(worked, key=lambda name: own[name]["whole"])
        tuned = variants[best]
        figures["tuned"] = {**own, "chosen": best}
    return Choice(amp, tuned, figures)


def _cold(arm: Arm, folder: Path) -> dict[str, Any]:
    if not arm.options["compiled"]:
        return {}
    return {"cold_seconds": round(run(arm, folder, [0]).seconds, 1)}


def _tried(arm: Arm, folder: Path) -> dict[str, float | None]:
    """Rates in trial-epochs per minute of as many trials as run at a time."""
    found: ArmRun = run(arm, folder, range(arm.lanes))
    steady = found.steady
    return {
        "whole": round(found.whole, 2),
        "steady": None if steady is None else round(steady, 2),
        "startup_seconds": round(found.startup, 2),
    }


def line_up(
    names: Sequence[str],
    widths: Sequence[int],
    choice: Choice,
    device: str,
    cores: int,
    compiled: bool = False,
) -> dict[str, Arm]:
    """The arms of those names in their order; `pool-<width>` for every width, and with `compiled`
    `pool-<width>-compiled`.
    """
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
        for width, blocks in product(widths, ("", "-compiled") if compiled else ("",)):
            options = {"width": width, "compiled": bool(blocks)}
            arms[f"pool-{width}{blocks}"] = Arm(
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
