"""Made-up but plausible ledger rows: three tasks, three adapters, every stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.results.selection import rank_configurations, winner
from orchestrator.spec import (
    STAGES,
    DataIdentity,
    Point,
    Recipe,
    Stage,
    Status,
    Suite,
    Sweep,
    Task,
    Trial,
    TrialResult,
    derived_seed,
    digest,
)

BACKBONE = "vit_mini"
WEIGHTS = "b7" * 32
RECIPE = Recipe(epochs=10, warmup_epochs=1)
SUITE = Suite(
    name="mini",
    tasks=tuple(
        Task(name, group, classes, 800, 200, 1000)
        for name, group, classes in (
            ("digits", "natural", 10),
            ("patches", "natural", 8),
            ("textures", "specialized", 12),
            ("location", "structured", 16),
        )
    ),
    backbone=BACKBONE,
    recipe=RECIPE,
    default_tasks=("digits", "textures", "location"),
    default_adapters=("linear", "lora", "efft2"),
)
SPACES: Mapping[str, Mapping[str, Any]] = {
    "linear": {},
    "lora": {"scale": [0.1, 1.0, 10.0], "rank": [2, 4, 8]},
    "efft2": {"scale": [0.01, 0.1, 1.0, 10.0, 100.0], "rank": [8, 16], "init": ["vv", "uu"]},
}
SWEEP = Sweep(
    suite="mini",
    backbone=BACKBONE,
    tasks=SUITE.default_tasks,
    adapters=SUITE.default_adapters,
    sampler="tpe",
    stopping="asha",
    trials=12,
    seeds=3,
    replicate=2,
    recipe=RECIPE,
    spaces=SPACES,
)
SKILL = {
    ("digits", "linear"): 0.86,
    ("digits", "lora"): 0.925,
    ("digits", "efft2"): 0.945,
    ("textures", "linear"): 0.62,
    ("textures", "lora"): 0.74,
    ("textures", "efft2"): 0.79,
    ("location", "linear"): 0.31,
    ("location", "lora"): 0.58,
    ("location", "efft2"): 0.71,
}
"""Accuracy of a well-tuned adapter on val."""
PARAMETERS = {"linear": 0, "lora": 8192, "efft2": 3072, "hta": 184_320}
BEST_SCALE = {"digits": 1.0, "textures": 10.0, "location": 10.0}


def trial(
    task: str = "digits",
    adapter: str = "lora",
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    stage: Stage = "search",
    recipe: Recipe = RECIPE,
    protocol: str = "honest",
) -> Trial:
    """A trial of the synthetic sweep; `params` default to rank 4, scale 1 (none for `linear`)."""
    if params is None:
        params = {} if adapter == "linear" else {"rank": 4, "scale": 1.0}
    own = identity(task)
    data = own.final if stage == "final" or protocol == "paper" else own.search
    return Trial(
        "mini", task, BACKBONE, adapter, dict(params), recipe, seed, stage, data, WEIGHTS, protocol
    )  # fmt: skip


def identity(task: str) -> DataIdentity:
    """The fingerprints of a task's made-up data."""
    return DataIdentity(digest([task, "search"]), digest([task, "test"]))


def result(
    of: Trial, value: float | None = 0.8, *, status: Status = "finished", **changes: Any
) -> TrialResult:
    """A row for `of`; `correct` agrees with `value` over 200 val or 1,000 test images.

    Under the protocol `paper` test is read every second epoch, and `value` is that of epoch 8.
    """
    images = 1000 if of.reads_test else 200
    right = round(images * (value or 0.0))
    exact = None if value is None else right / images
    order = np.random.default_rng(derived_seed(of.task)).permutation(images)
    noise = np.random.default_rng(_seed(of)).normal(0, 0.06 * images, images)
    correct = np.zeros(images, dtype=np.uint8)
    correct[np.argsort(order + noise)[:right]] = 1
    epochs = of.recipe.epochs if status == "finished" else 3
    begin = STAGES.index(of.stage) * 1000 + (5000 if of.leaks else 0)
    start = 1.7e9 + begin + _seed(of, "start") % 400
    row = TrialResult(
        trial=of,
        status=status,
        value=exact,
        eval_loss=None if value is None else 1.5 * (1 - value),
        epochs_run=epochs,
        curve=_curve(of, exact, epochs),
        correct=b"" if value is None else correct.tobytes(),
        parameters=PARAMETERS[of.adapter],
        stopping="asha" if status == "stopped" else "",
        message="loss is NaN at epoch 3" if status == "diverged" else "",
        test_reads=(epochs // 2 if of.leaks else 1) if of.reads_test else 0,
        seconds=0.11 * epochs,
        started=start,
        finished=start + 4,
        host="node-a",
        device="cpu",
        code="0.1.0+abc1234",
        versions={"torch": "2.15.0", "timm": "1.0.20"},
    )
    return replace(row, **changes)


def on_folds(rows: Iterable[TrialResult]) -> list[TrialResult]:
    """The same rows with replicates on folds."""
    found = []
    for row in rows:
        data = identity(row.trial.task).read_by(row.trial.stage, row.trial.seed, "folds", False)
        found.append(replace(row, trial=replace(row.trial, data=data)))
    return found


def sweep_results(protocol: str = "honest") -> list[TrialResult]:
    """The ledger of the whole finished sweep, some trials stopped early, one diverged."""
    rows: list[TrialResult] = []
    for task in SWEEP.tasks:
        for adapter in SWEEP.adapters:
            rows += _study_rows(task, adapter, protocol)
    return rows


def benchmark_results(sweep: Sweep, suite: Suite) -> list[TrialResult]:
    """One search row and all final rows for every study of a sweep of any suite."""
    return [
        result(replace(trial(task.name, adapter, {}, stage=stage, seed=seed), suite=suite.name,
                       backbone=sweep.backbone), round(0.4 + 0.02 * place + 0.01 * seed, 3))
        for adapter in sweep.adapters
        for place, task in enumerate(suite.tasks)
        if task.name in sweep.tasks
        for stage, seed in [("search", 0), *(("final", seed) for seed in range(1, sweep.seeds + 1))]
    ]  # fmt: skip


def _study_rows(task: str, adapter: str, protocol: str) -> list[TrialResult]:
    rows = [_search_row(task, adapter, params, protocol) for params in _grid(task, adapter)]
    by_config = {row.trial.config: row for row in rows}
    several = len(rows) > 1 and protocol == "honest"
    top = rank_configurations(rows)[: SWEEP.replicate] if several else []
    for config in top:
        rows += [_again(by_config[config], "replicate", seed) for seed in (1, 2, 3)]
    chosen = by_config[winner(rows) or ""]
    rows += [_again(chosen, "final", seed) for seed in (1, 2, 3)]
    return rows


def _grid(task: str, adapter: str) -> list[dict[str, Any]]:
    space = SPACES[adapter]
    points: list[dict[str, Any]] = [{}]
    for name, values in space.items():
        points = [{**point, name: value} for point in points for value in values]
    order = np.random.default_rng(derived_seed(task, adapter)).permutation(len(points))
    return [points[index] for index in order[:14]]


def _search_row(task: str, adapter: str, params: Mapping[str, Any], protocol: str) -> TrialResult:
    of = trial(task, adapter, params, protocol=protocol)
    rng = np.random.default_rng(_seed(of, "value"))
    off = abs(math.log10(params.get("scale", 1.0) / BEST_SCALE[task])) if params else 0.0
    value = SKILL[task, adapter] - 0.07 * off**1.5 + 0.004 * params.get("rank", 8) / 8
    value = max(0.08, value + rng.normal(0, 0.008))
    if params.get("scale") == 100.0 and params.get("init") == "uu" and task == "digits":
        return result(of, None, status="diverged")
    if off >= 2 and rng.random() < 0.7:
        return result(of, value - 0.12, status="stopped")
    return result(of, value)


def _again(row: TrialResult, stage: Stage, seed: int) -> TrialResult:
    of = replace(row.trial, stage=stage, seed=seed)
    if stage == "final":
        of = trial(of.task, of.adapter, of.params, seed=seed, stage="final", protocol=of.protocol)
    shift = np.random.default_rng(_seed(of, "value")).normal(0, 0.009)
    base = SKILL[of.task, of.adapter] + (0.012 if stage == "final" else -0.004)
    base += 0.01 if of.leaks else 0.0
    return result(of, base + shift)


def _curve(of: Trial, value: float | None, epochs: int) -> tuple[Point, ...]:
    rng = np.random.default_rng(_seed(of, "curve"))
    points = []
    for epoch in range(1, epochs + 1):
        progress = 1 - math.exp(-3.2 * epoch / of.recipe.epochs)
        shown = None if value is None else value * progress / (1 - math.exp(-3.2))
        if shown is not None and epoch < epochs:
            shown = max(0.0, shown + float(rng.normal(0, 0.01)))
        if of.leaks:
            shown = None if epoch % 2 else _paper_value(value, epoch)
        elif of.stage == "final" and epoch < epochs:
            shown = None
        points.append(Point(epoch, 1e-3, 2.2 * (1 - 0.8 * progress), None, shown))
    return tuple(points)


def _paper_value(value: float | None, epoch: int) -> float | None:
    """Best at epoch 8; the last, epoch 10, is one point below."""
    return None if value is None else value - 0.005 * abs(8 - epoch)


def _seed(of: Trial, *parts: str) -> int:
    """Depends on which trial it is, not on how trials are hashed."""
    return derived_seed(
        of.task, of.adapter, dict(of.params), of.seed, of.stage, of.protocol, *parts
    )


def interrupted(rows: Iterable[TrialResult]) -> list[TrialResult]:
    """What a sweep stopped early would hold: no `location/efft2`, one final seed of textures."""
    return [
        row
        for row in rows
        if row.trial.study != "location/efft2"
        and not (row.trial.task == "textures" and row.trial.stage == "final" and row.trial.seed > 1)
    ]
