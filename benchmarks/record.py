"""The record of mini that `orchestrate replay` runs on: whole grids, trained to the end.

    python benchmarks/record.py

Every point of the grids of EFFT2 and LoRA on every task of mini, with the seeds 0, 1 and 2, trained
on train: val accuracy after every epoch, test accuracy after the last. Written to
benchmarks/records/mini.parquet, row by row as docs/search.md says; rows that are there already are
not trained again, so that an interrupted run is continued.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import search_spaces
from orchestrator import tasks
from orchestrator.backbones import load_backbone
from orchestrator.data.prepared.prepare import prepare_tasks
from orchestrator.data.prepared.store import default_root
from orchestrator.data.splits import Split, open_final, open_search
from orchestrator.engine.group import EpochEnd, Group
from orchestrator.engine.pool import Ended, Event, Pool
from orchestrator.spec import Task, Trial, TrialResult
from orchestrator.storage.files import write_whole
from search_spaces.finite import grid_point, grid_size

RECORD = Path(__file__).parent / "records" / "mini.parquet"
ADAPTERS = ("lora", "efft2")
SEEDS = 3
SUITE = tasks.suite("mini")


class RecordingPool(Pool):
    """A pool that also reads test after the last epoch of every trial, which nothing chooses by."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__(load_backbone("vit_mini"), torch.device("cpu"), width=width)
        self.search = open_search(SUITE.store, task, default_root())
        test = open_final(SUITE.store, task, default_root()).test
        assert isinstance(test, Split)
        self._test = self._splits.pixels(test)
        self.tests: dict[str, float] = {}

    def _after_epoch(self, group: Group, ends: Sequence[EpochEnd]) -> list[Event]:
        done = [end.training for end in ends if end.training.done and end.bad_step is None]
        if done:
            val = done[0].evaluation
            for training in done:
                training.evaluation = self._test
            self.tests |= {key: one.accuracy for key, one in group.evaluate(done).items()}
            for training in done:
                training.evaluation = val
        return super()._after_epoch(group, ends)


def main() -> None:
    """Train what the record lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=24)
    asked = parser.parse_args()
    prepare_tasks(SUITE, SUITE.tasks, default_root(), None)
    for seed in range(SEEDS):
        for task in SUITE.tasks:
            for adapter in ADAPTERS:
                _record(task, adapter, seed, asked.width)


def _record(task: Task, adapter: str, seed: int, width: int) -> None:
    rows = pq.read_table(RECORD).to_pylist() if RECORD.exists() else []
    space = search_spaces.get(adapter)
    size = grid_size(space)
    assert size is not None
    wanted = {
        trial.key: (trial, point)
        for point in (grid_point(space, index) for index in range(size))
        for trial in [_trial(task, adapter, point, seed)]
    }
    here = sum(
        (row["task"], row["adapter"], row["seed"]) == (task.name, adapter, seed) for row in rows
    )
    if here == len(wanted):
        return
    began = time.perf_counter()
    pool = RecordingPool(task, width)
    for trial, _ in wanted.values():
        pool.add(trial, pool.search)
    found: list[TrialResult] = []
    while len(pool):
        found += [event.result for event in pool.advance() if isinstance(event, Ended)]
    rows += [_row(result, pool.tests, wanted[result.key][1]) for result in found]
    _write(rows)
    print(
        f"{task.name} {adapter} seed {seed}: {len(found)} trials in "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


def _row(result: TrialResult, tests: dict[str, float], point: dict[str, Any]) -> dict[str, Any]:
    trial = result.trial
    return {
        "task": trial.task,
        "adapter": trial.adapter,
        "seed": trial.seed,
        **point,
        "parameters": result.parameters,
        "val": [round(one.eval_accuracy or 0.0, 4) for one in result.curve],
        "test": tests.get(trial.key),
    }


def _trial(task: Task, adapter: str, point: dict[str, Any], seed: int) -> Trial:
    recipe = SUITE.recipe.with_values({"precision": "fp32"})
    return Trial("mini", task.name, "vit_mini", adapter, point, recipe, seed, "search", "", "")


def _write(rows: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    RECORD.parent.mkdir(exist_ok=True)
    write_whole(RECORD, bytes(sink.getvalue()))


if __name__ == "__main__":
    main()
