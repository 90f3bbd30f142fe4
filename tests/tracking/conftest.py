"""Sweep folders with an empty MLflow database, migrated once for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.storage.folder_lock import FolderLock
from orchestrator.tracking.locations import default_uri
from orchestrator.tracking.mlflow import track
from orchestrator.tracking.process import TrackingProcess
from tests.commands import until
from tests.tracking.synthetic import make_sweep


def _size(file: Path) -> int:
    """0 for a file that SQLite has just deleted."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as `track` makes it, of a sweep without trials.

    It takes seconds, so it serves one more end: a writer is killed in the middle of making it.
    """
    out = make_sweep(tmp_path_factory.mktemp("template"), "template")
    with FolderLock(out) as lease:
        process = TrackingProcess(out, default_uri(out), lease.token).start()
        until(lambda: any(_size(file) > 50_000 for file in out.glob("mlflow.db*")))
        process.stop()
    assert not (out / "mlflow.db").exists(), "half a database would never open again"
    track(out)
    return out / "mlflow.db"


@pytest.fixture
def sweep(tmp_path: Path, migrated: Path) -> Path:
    """A sweep's folder; its database holds one other, empty sweep."""
    out = make_sweep(tmp_path / "sweep")
    shutil.copy(migrated, out / "mlflow.db")
    return out
