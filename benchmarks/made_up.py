"""Results as large as real ones, of trials that were never trained."""

from __future__ import annotations

import hashlib
import random
import time

from orchestrator.spec import Point, Trial, TrialResult

VERSIONS = {"torch": "0", "timm": "0"}
IMAGES = 200


def made_up(trial: Trial, status: str = "finished", finished: float | None = None) -> TrialResult:
    """A result with a point per epoch and 200 images; but for its times it depends on the key."""
    noise = random.Random(hashlib.sha256(trial.key.encode()).digest())
    epochs = trial.recipe.epochs if status == "finished" else noise.randrange(1, 10)
    right = [noise.random() < 0.7 for _ in range(IMAGES)]
    value, loss = sum(right) / IMAGES, noise.uniform(0.5, 2.0)
    curve = [Point(epoch, 1e-3, noise.uniform(0, 4) / epoch) for epoch in range(1, epochs)]
    diverged = status == "diverged"
    now = time.time() if finished is None else finished
    return TrialResult(
        trial=trial,
        status=status,  # type: ignore[arg-type]
        value=None if diverged else value,
        eval_loss=None if diverged else loss,
        epochs_run=epochs,
        curve=(*curve, Point(epochs, 1e-5, noise.uniform(0, 4) / epochs, loss, value)),
        correct=b"" if diverged else bytes(right),
        parameters=noise.randrange(10_000, 300_000),
        stopping="asha" if status == "stopped" else "",
        test_reads=int(trial.stage == "final"),
        seconds=noise.uniform(1, 300),
        started=now - 1.0,
        finished=now,
        host="host",
        device="none",
        code="0",
        versions=VERSIONS,
    )
