"""A plausible ledger row to change in tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.spec import Point, Recipe, Trial, TrialResult

TRIAL = Trial(
    suite="mini",
    task="digits",
    backbone="vit_mini",
    adapter="efft2",
    params={"rank": 8, "scale": 10.0, "init": "vv", "sites": ["mhsa", "ffn"], "layers": None},
    recipe=Recipe(epochs=10, warmup_epochs=2, lr=5e-3),
    seed=0,
    stage="search",
    data="d" * 64,
    weights="w" * 64,
)
RESULT = TrialResult(
    trial=TRIAL,
    status="finished",
    value=0.335,
    eval_loss=1.0 / 3.0,
    epochs_run=10,
    curve=tuple(
        Point(epoch, 1e-3 / epoch, 2.0 / epoch, *((0.7, 0.335) if epoch % 5 == 0 else ()))
        for epoch in range(1, 11)
    ),
    correct=bytes(index % 3 == 0 for index in range(200)),
    parameters=12_345,
    seconds=1.5,
    started=1_800_000_000.123456,
    finished=1_800_000_002.5,
    host="node-1",
    device="cpu",
    code="0.1.0",
    versions={"torch": "2.15", "timm": "1.0.31"},
)


def result(seed: int = 0, **changes: Any) -> TrialResult:
    """`RESULT` of another seed: another trial, another key."""
    return replace(RESULT, trial=replace(TRIAL, seed=seed), **changes)
