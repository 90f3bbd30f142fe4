"""What an MLflow database really holds, read with SQL so that MLflow itself has no say in it."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.spec import TrialResult

SWEEP = "5eed"
Ask = Callable[[str], list[tuple[Any, ...]]]
"""SQL → rows."""


@dataclass
class Stored:
    """One run that nobody deleted."""

    id: str
    name: str
    status: str
    end: int | None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    """Metric → (step, value), in order of steps; a point that is there twice is here twice."""


def stored(out: Path, sweep: str = SWEEP, ask: Ask | None = None) -> dict[str, Stored]:
    """The sweep's runs by key; fails when a key has two. `ask`: of another database."""
    found = _runs(ask or partial(_ask, out / "mlflow.db"), sweep)
    keys = Counter(run.tags["orchestrate.key"] for run in found)
    assert set(keys.values()) <= {1}, f"more than one run: {keys.most_common(3)}"
    return {run.tags["orchestrate.key"]: run for run in found}


def count(out: Path) -> int:
    """Runs in the database, whatever they are; 0 when it cannot be read yet."""
    try:
        with closing(sqlite3.connect(f"file:{out / 'mlflow.db'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def content(out: Path) -> list[str]:
    """The whole database as text."""
    with closing(sqlite3.connect(out / "mlflow.db")) as database:
        return list(database.iterdump())


def check_agrees(
    out: Path, rows: Iterable[TrialResult], sweep: str = SWEEP, ask: Ask | None = None
) -> dict[str, Stored]:
    """MLflow holds the ledger's rows: each once, complete, under its study, under one sweep."""
    runs, rows = stored(out, sweep, ask), list(rows)
    studies = {f"study:{row.trial.study}" for row in rows}
    assert set(runs) == {"sweep", *studies, *(row.key for row in rows)}
    assert "mlflow.parentRunId" not in runs["sweep"].tags
    for study in studies:
        assert runs[study].tags["mlflow.parentRunId"] == runs["sweep"].id
    for row in rows:
        run = runs[row.key]
        assert run.tags["mlflow.parentRunId"] == runs[f"study:{row.trial.study}"].id
        assert run.status == ("FAILED" if row.status == "diverged" else "FINISHED")
        assert run.end == round(row.finished * 1000)
        _check_points(run, row)
    return runs


def _check_points(run: Stored, row: TrialResult) -> None:
    split = "test" if row.trial.stage == "final" else "val"
    expected: dict[str, list[tuple[int, float | None]]] = {
        "train/loss": [(point.epoch, point.loss) for point in row.curve],
        "lr": [(point.epoch, point.lr) for point in row.curve],
        f"{split}/loss": [(point.epoch, point.eval_loss) for point in row.curve],
        f"{split}/accuracy": [(point.epoch, point.eval_accuracy) for point in row.curve],
        "value": [(row.epochs_run, row.value)],
        "epochs": [(row.epochs_run, row.epochs_run)],
        "seconds": [(row.epochs_run, row.seconds)],
        "parameters": [(row.epochs_run, row.parameters)],
    }
    for name, points in expected.items():
        known = [(step, value) for step, value in points if value is not None]
        assert len(run.points[name]) == len(known), f"{name} of {run.name}"
        for (step, value), (wanted_step, wanted) in zip(run.points[name], known, strict=True):
            assert step == wanted_step
            assert value == wanted or (math.isnan(value) and math.isnan(wanted))
    assert set(run.points) == set(expected), run.name


def _ask(file: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute(question).fetchall()


def _runs(ask: Ask, sweep: str) -> list[Stored]:
    found: dict[str, Stored] = {
        str(row[0]): Stored(*row)
        for row in ask(
            "SELECT r.run_uuid, r.name, r.status, r.end_time FROM runs r JOIN tags t "
            f"ON t.run_uuid = r.run_uuid AND t.key = 'orchestrate.sweep' AND t.value = '{sweep}' "
            "WHERE r.lifecycle_stage = 'active'"
        )
    }
    for table in ("tags", "params"):
        for run, key, value in ask(f"SELECT run_uuid, key, value FROM {table}"):
            if run in found:
                getattr(found[run], table)[key] = value
    points = "SELECT run_uuid, key, step, value, is_nan FROM metrics ORDER BY step, timestamp"
    for run, key, step, value, nan in ask(points):
        if run in found:
            found[run].points[key].append((step, math.nan if nan else value))
    return list(found.values())
