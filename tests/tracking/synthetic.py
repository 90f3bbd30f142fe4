"""Sweeps that nobody trained: folders with `sweep.json` and a ledger of made-up results."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.results.ledger import Ledger
from orchestrator.results.sweep_file import SweepFile, read_sweep
from orchestrator.spec import (
    DataIdentity,
    Point,
    Recipe,
    Stage,
    Status,
    Sweep,
    Trial,
    TrialResult,
)
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tasks.suites import MINI

EPOCHS = 10
BEGAN = 1_700_000_000.0


def make_sweep(out: Path, name: str = "5eed") -> Path:
    out.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(
        suite="mini",
        backbone="vit_mini",
        tasks=("digits", "count"),
        adapters=("linear", "lora"),
        sampler="tpe",
        stopping="asha",
        trials=8,
        seeds=3,
        replicate=2,
        recipe=Recipe(epochs=EPOCHS, warmup_epochs=1),
        spaces={},
    )
    data = dict.fromkeys(sweep.tasks, DataIdentity("d", "t"))
    made = SweepFile(name, sweep, MINI, {}, data, "w" * 64, "orchestrate sweep mini", BEGAN)
    made.write(SweepPaths(out))
    return out


def sweep_of(out: Path) -> SweepFile:
    return read_sweep(SweepPaths(out))


def results(number: int, seed: int = 0, epochs: int = EPOCHS) -> Iterator[TrialResult]:
    """That many results over two tasks, two adapters and all stages; a few stopped or diverged."""
    rng = random.Random(seed)
    for index in range(number):
        task, adapter = ("digits", "count")[index % 2], ("linear", "lora")[index // 2 % 2]
        stage: Stage = ("search", "search", "search", "replicate", "final")[index % 5]
        status: Status = "finished"
        if stage == "search" and index % 7 == 6:
            status = "stopped"
        elif stage == "search" and index % 11 == 10:
            status = "diverged"
        yield result(rng, index, task, adapter, stage, status, epochs)


def result(
    rng: random.Random,
    index: int,
    task: str = "digits",
    adapter: str = "lora",
    stage: Stage = "search",
    status: Status = "finished",
    epochs: int = EPOCHS,
) -> TrialResult:
    recipe = Recipe(epochs=epochs, warmup_epochs=1)
    params = {"rank": 4, "scale": 0.1 * (index + 1), "sites": ["q", "v"], "lr": index}
    trial = Trial(
        "mini", task, "vit_mini", adapter, params, recipe, index, stage, "d" * 64, "w" * 64
    )
    run = epochs if status == "finished" else max(1, epochs // 2)
    curve = tuple(_curve(rng, run, diverged=status == "diverged"))
    value = None if status == "diverged" else curve[-1].eval_accuracy
    return TrialResult(
        trial=trial,
        status=status,
        value=value,
        eval_loss=None if value is None else curve[-1].eval_loss,
        epochs_run=run,
        curve=curve,
        correct=b"",
        parameters=1234,
        stopping="asha" if status == "stopped" else "",
        message="loss is NaN in steps 10 to 12" if status == "diverged" else "",
        seconds=1.5,
        started=BEGAN + index,
        finished=BEGAN + index + 2.25,
        host="node1",
        device="cpu",
        code="0.1.0",
    )


def append(out: Path, rows: Iterable[TrialResult]) -> list[TrialResult]:
    ledger, rows = Ledger(out / "ledger"), list(rows)
    for row in rows:
        ledger.append(row)
    return rows


def _curve(rng: random.Random, epochs: int, diverged: bool) -> Iterator[Point]:
    for epoch in range(1, epochs + 1):
        bad = diverged and epoch == epochs
        loss = math.nan if bad else 2.0 / epoch + 0.1 * rng.random()
        accuracy = None if bad else min(1.0, 0.5 + 0.04 * epoch + 0.05 * rng.random())
        yield Point(epoch, 1e-3 / epoch, loss, None if bad else loss * 1.1, accuracy)
