"""Plans and trials on the suite `mini` that train in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator import tasks
from orchestrator.backbones import fingerprint
from orchestrator.backends.pool_config import PoolConfig
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.data.prepared.prepare import prepare_tasks
from orchestrator.results.ledger import Ledger
from orchestrator.spec import Stage, Trial
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import events

SUITE = tasks.suite("mini")
TASK = "orientation"
RECIPE = SUITE.recipe.with_values(
    {"epochs": 2, "warmup_epochs": 0, "drop_path": 0.0, "precision": "fp32"}
)
"""Without drop-path `linear` trains on features that are computed once."""


def pool_config(out: Path, data: Path, lease: str, **changes: Any) -> PoolConfig:
    values = {"stopping": "asha", "weights": fingerprint("vit_mini"), **changes}
    return PoolConfig(
        out=out, data_root=data, suite=SUITE, backbone="vit_mini", lease=lease, **values
    )


def trial(data: Path, seed: int = 0, stage: Stage = "search", **recipe: Any) -> Trial:
    """A linear probe; `recipe` are recipe fields."""
    identity = prepare_tasks(SUITE, [SUITE.task(TASK)], data, None)[TASK].identity
    return Trial(
        suite=SUITE.name,
        task=TASK,
        backbone="vit_mini",
        adapter="linear",
        params={},
        recipe=RECIPE.with_values(recipe),
        seed=seed,
        stage=stage,
        data=identity.final if stage == "final" else identity.search,
        weights=fingerprint("vit_mini"),
    )


@contextmanager
def pool_worker(
    out: Path, data: Path, notify: Callable[[str], None] | None = None, **changes: Any
) -> Iterator[PoolWorker]:
    """A worker of the command that holds the folder's lock; changes are the config's."""
    with FolderLock(out) as lock:
        worker = PoolWorker(pool_config(out, data, lock.token, **changes), "cpu", notify=notify)
        try:
            yield worker
        finally:
            worker.close()


def train(worker: PoolWorker, *trials: Trial) -> None:
    """Train trials to their ends."""
    for one in trials:
        worker.add(one, ())
    while len(worker.pool):
        worker.advance()


def keys(out: Path) -> frozenset[str]:
    """What is in the ledger."""
    return Ledger(SweepPaths(out).ledger).keys()


def logged(out: Path, key: str) -> list[str]:
    """The events of one trial in logs/trials.log."""
    return [event.name for event in events(out) if event.key == key]
