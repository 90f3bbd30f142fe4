"""One MLflow writer per sweep: a file lock, which the system releases when its holder ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import TrackingError

NAME = ".lock-tracking"


@contextmanager
def only_writer(out: Path, patience: float) -> Iterator[None]:
    """Hold the lock; wait up to `patience` seconds for it, then raise `TrackingError`."""
    lock = FileLock(out / NAME)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise TrackingError(
            f"another command is writing '{out}' to MLflow now, probably the sweep itself. "
            "Wait until it has ended, then try again."
        ) from None
    try:
        yield
    finally:
        lock.release()
