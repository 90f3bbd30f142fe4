"""One writer per sweep: a file lock in its folder, which the system drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import TrackingError

NAME = ".lock-tracking"
PAUSE = 0.1


@contextmanager
def only_writer(out: Path, patience: float) -> Iterator[None]:
    """Hold the lock; wait up to `patience` seconds for it, then raise `TrackingError`."""
    handle = os.open(out / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(handle, out, time.monotonic() + patience)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, out: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TrackingError(
                    f"another command is writing '{out}' to MLflow now, probably the sweep itself. "
                    "Wait until it has ended, then try again."
                ) from None
        time.sleep(PAUSE)
