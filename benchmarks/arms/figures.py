"""Figures from the times of events, one row per arm, and the printed table: no torch.

A lane is a place where one process of an arm runs at a time; a slot is a place for one trial in it.
`script` has one lane of one slot, a pool of width 8 on each of two cores two lanes of eight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from statistics import fmean, median, stdev
from typing import Any

MINUTE = 60.0
FLOOR = 0.01
"""Arms agree if their mean accuracies differ by less than this, or by less than two errors."""
SIZES = (1, 10, 100, 1000)
BASES = ("script", "stock", "tuned")
TARGETS = {
    "cuda": (
        ("script", "steady", 10.0),
        ("stock", "steady", 5.0),
        ("tuned", "steady", 2.0),
        ("", "share_of_best_rate", 0.55),
    ),
    "cpu": (("stock", "sweep", 3.0), ("tuned", "steady", 1.0)),
}
"""Device → base, what is compared, and how many times it the best pool should do (or the share).

`steady` compares rates, `sweep` the predicted minutes of `SWEEP` trials with everything counted:
in the run itself the arms may have had different numbers of trials.
"""
SWEEP = 100
_STEADY = "steady_trial_epochs_per_minute"
_COLUMNS = (
    ("arm", 9), ("trials", 6), ("steady/min", 10), ("whole/min", 9), ("start s", 7),
    ("images/s", 8), ("of best", 7), ("GPU MiB", 7), ("RSS MiB", 7), ("val", 15), ("script", 6),
    ("stock", 6), ("tuned", 6), ("accuracy", 20),
)  # fmt: skip


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


def summary(
    runs: Mapping[str, Sequence[ArmRun]], work: Mapping[str, Any], roofline: Mapping[str, Any]
) -> dict[str, Any]:
    """Arm → medians over rounds; ratios are medians over those in which both arms ran.

    `work` and `roofline` are what `arms.images` wrote.
    """
    epochs, batch = work["recipe"]["epochs"], work["recipe"]["batch"]
    trained = work["train"] // batch * batch
    rows = {name: _row(own, epochs, trained) for name, own in runs.items() if own}
    for name, row in rows.items():
        row["share_of_best_rate"] = _share(row[_STEADY], trained, roofline)
        bases = [other for other in BASES if other in rows]
        row["steady_ratio"] = {
            other: _middle(ratio(a.steady, b.steady) for a, b in _pairs(runs, name, other))
            for other in bases
        }
        row["sweep_ratio"] = {
            other: _middle(
                ratio(b.minutes(SWEEP, epochs), a.minutes(SWEEP, epochs))
                for a, b in _pairs(runs, name, other)
            )
            for other in bases
        }
        if "tuned" in rows:
            tuned = runs["tuned"][-1].accuracies
            row["against_tuned"] = compare(runs[name][-1].accuracies, tuned)
    return rows


def _pairs(
    runs: Mapping[str, Sequence[ArmRun]], one: str, other: str
) -> list[tuple[ArmRun, ArmRun]]:
    return list(zip(runs[one], runs[other], strict=False))  # a last round may be incomplete


def _middle(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return round(median(found), 2) if found else None


def _share(rate: float | None, trained: int, roofline: Mapping[str, Any]) -> float | None:
    """Of the device's best rate, by what training alone computes; evaluations are not counted."""
    if rate is None:
        return None
    done = rate / 60 * trained * roofline["training_flop_per_image"]
    return round(done / float(roofline["best_flop_per_second"]), 4)


def targets(rows: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    """What the best pool reaches of each target; None where its base did not run."""
    pools = [row for name, row in rows.items() if name.startswith("pool")]
    found = []
    for base, kind, wanted in TARGETS[device]:
        own = [row[f"{kind}_ratio"].get(base) if base else row[kind] for row in pools]
        best = max((value for value in own if value is not None), default=None)
        met = None if best is None else best >= wanted
        found.append({"base": base, "what": kind, "wanted": wanted, "best": best, "met": met})
    return found


def text(rows: Mapping[str, Any], reached: Sequence[Mapping[str, Any]]) -> str:
    """The table with the targets below it; ratios are those of the steady state."""
    lines = ["  ".join(f"{name:>{width}}" for name, width in _COLUMNS)]
    for name, row in rows.items():
        mean, sd = row["val_accuracy"]["mean"], row["val_accuracy"]["sd"]
        cells = (
            name, row["trials"], row[_STEADY],
            row["whole_trial_epochs_per_minute"], row["startup_seconds"],
            row["images_per_second"], row["share_of_best_rate"],
            row["device_memory_mib"], row["host_memory_mib"],
            f"{_shown(mean)} ± {_shown(sd)}",
            *(_shown(row["steady_ratio"].get(base)) for base in BASES),
            row.get("against_tuned", {}).get("verdict", "–"),
        )  # fmt: skip
        pairs = zip(cells, _COLUMNS, strict=True)
        lines.append("  ".join(f"{_shown(cell):>{width}}" for cell, (_, width) in pairs))
    lines.append("")
    for size in SIZES:
        costs = ", ".join(f"{n} {_shown(row['minutes'][str(size)])}" for n, row in rows.items())
        lines.append(f"predicted minutes for {size} trials: {costs}")
    for t in reached:
        met = {True: "met", False: "not met", None: "not measured"}[t["met"]]
        wanted = f"{t['wanted']:g}× {t['base']}" if t["base"] else f"{t['wanted']:g}"
        lines.append(
            f"target: best pool at least {wanted} ({t['what']}): {_shown(t['best'])}, {met}"
        )
    return "\n".join(lines)


def raw(run: ArmRun) -> dict[str, Any]:
    """All that a run measured, times in seconds from its start."""
    return {
        "seconds": round(run.seconds, 3), "lanes": run.lanes, "slots": run.slots,
        "free_seconds": round(run.free, 3), "options": dict(run.options),
        "accuracies": dict(run.accuracies),
        "processes": [
            {
                "began": round(p.began - run.began, 3), "stepped": round(p.stepped - run.began, 3),
                "epochs": [[round(time - run.began, 3), count] for time, count in p.epochs],
            }
            for p in run.processes
        ],
    }  # fmt: skip


def _row(runs: Sequence[ArmRun], epochs: int, images: int) -> dict[str, Any]:
    steady = [run.steady for run in runs if run.steady is not None]
    rate = median(steady) if steady else None
    mean, sd = spread([a for a in runs[-1].accuracies.values() if a is not None])
    return {
        "trials": len(runs[-1].accuracies),
        "rounds": len(runs),
        "lanes": runs[-1].lanes,
        "slots": runs[-1].slots,
        _STEADY: _rounded(rate),
        "whole_trial_epochs_per_minute": _rounded(median(run.whole for run in runs)),
        "startup_seconds": _rounded(median(run.startup for run in runs)),
        "images_per_second": None if rate is None else round(rate / 60 * images, 1),
        "device_memory_mib": max(run.device_mib for run in runs),
        "host_memory_mib": round(max(run.host_mib for run in runs)),
        "val_accuracy": {"mean": _rounded(mean, 4), "sd": _rounded(sd, 4)},
        "minutes": {
            str(size): round(median(run.minutes(size, epochs) for run in runs), 2) for size in SIZES
        },
    }


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
