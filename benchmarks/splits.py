"""What replicates on folds of train + val bring, beside replicates on the task's own val.

    python benchmarks/splits.py

On mini, by task: a random part of EFFT2's grid is searched, its best configurations are replicated
on fixed splits and on folds, and every one of them is trained on train + val and read on test, so
that the right choice is known. Written to benchmarks/results/splits_mini.json and printed: by how
much the winner's replicates exceed its test accuracy, and how much test accuracy the choice lost
against the best of the replicated. A mean over tasks has two standard errors beside it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch
from machine import facts, write

import search_spaces
from orchestrator import tasks
from orchestrator.backbones import load_backbone
from orchestrator.data.prepared.prepare import prepare_tasks
from orchestrator.data.prepared.store import default_root
from orchestrator.data.splits import FinalData, SearchData, open_final, open_search
from orchestrator.engine.pool import Ended, Pool
from orchestrator.spec import SPLITS, Stage, Task, Trial, TrialResult
from search_spaces.finite import grid_point, grid_size

PACKAGES = ("torch", "timm", "numpy")
ADAPTER = "efft2"


def main() -> None:
    """Measure every task of mini."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configurations", type=int, default=12)
    parser.add_argument("--replicated", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    asked = parser.parse_args()
    suite = tasks.suite("mini")
    prepare_tasks(suite, suite.tasks, default_root(), None)
    found = {task.name: _measure(task, asked) for task in suite.tasks}
    mean = {
        splits: {name: _mean([one[splits][name] for one in found.values()]) for name in FIGURES}
        for splits in SPLITS
    }
    print(json.dumps(mean, indent=2))
    write(
        "splits_mini",
        {**vars(asked), "adapter": ADAPTER, "mean": mean, "tasks": found, **facts(*PACKAGES)},
    )


FIGURES = ("replicates_above_test", "regret")


def _measure(task: Task, asked: argparse.Namespace) -> dict[str, Any]:
    suite = tasks.suite("mini")
    search = open_search(suite.store, task, default_root())
    final = open_final(suite.store, task, default_root())
    points = _points(asked.configurations, task.name)
    rows = _trained([(_trial(task, point, 0, "search"), search) for point in points], asked)
    best = sorted(points, key=lambda point: -_values(rows, task, point, "search", 1)[0])
    chosen = best[: asked.replicated]
    seeds = range(1, asked.seeds + 1)
    finals = _trained(
        [(_trial(task, one, seed, "final"), final) for one in chosen for seed in seeds], asked
    )
    test = [fmean(_values(finals, task, one, "final", asked.seeds)) for one in chosen]
    found: dict[str, Any] = {"search_above_test": round(100 * (_top(rows) - test[0]), 2)}
    for splits in SPLITS:
        data = {seed: search if splits == "fixed" else search.fold(seed) for seed in seeds}
        again = _trained(
            [(_trial(task, one, s, "replicate"), data[s]) for one in chosen for s in seeds], asked
        )
        val = [fmean(_values(again, task, one, "replicate", asked.seeds)) for one in chosen]
        winner = val.index(max(val))  # of equal ones that with the higher search value
        found[splits] = {
            "replicates_above_test": round(100 * (val[winner] - test[winner]), 2),
            "regret": round(100 * (max(test) - test[winner]), 2),
        }
    print(task.name, json.dumps(found), flush=True)
    return found


def _points(number: int, task: str) -> list[dict[str, Any]]:
    space = search_spaces.get(ADAPTER)
    size = grid_size(space)
    assert size is not None
    drawn = random.Random(task).sample(range(size), number)
    return [grid_point(space, index) for index in drawn]


def _trial(task: Task, point: dict[str, Any], seed: int, stage: Stage) -> Trial:
    suite = tasks.suite("mini")
    recipe = replace(suite.recipe, precision="fp32", evaluate_every=0)
    return Trial("mini", task.name, "vit_mini", ADAPTER, point, recipe, seed, stage, "", "")


def _trained(
    work: Sequence[tuple[Trial, SearchData | FinalData]], asked: argparse.Namespace
) -> dict[str, TrialResult]:
    pool = Pool(load_backbone("vit_mini"), torch.device("cpu"), width=asked.width)
    for trial, data in work:
        pool.add(trial, data)
    rows = {}
    while len(pool):
        ended = [event.result for event in pool.advance() if isinstance(event, Ended)]
        rows.update({row.key: row for row in ended})
    return rows


def _values(
    rows: dict[str, TrialResult], task: Task, point: dict[str, Any], stage: Stage, seeds: int
) -> list[float]:
    first = 0 if stage == "search" else 1
    keys = [_trial(task, point, first + n, stage).key for n in range(seeds)]
    return [rows[key].value or 0.0 for key in keys]


def _top(rows: dict[str, TrialResult]) -> float:
    return max(row.value or 0.0 for row in rows.values())


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.2f} ± {2 * stdev(values) / len(values) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
