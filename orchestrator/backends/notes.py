"""What a pool's process notes for people: without it nothing is lost, so nothing here raises."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import provenance
from orchestrator.errors import StorageError
from orchestrator.storage.retry import log
from orchestrator.storage.sweep_storage import SweepStorage

PERIOD = 5.0
"""Seconds between two copies of a log in an object store, which must be written whole."""


def publisher(storage: SweepStorage) -> Callable[[Path], None]:
    """A `SweepStorage.publish` that does not raise."""

    def publish(path: Path) -> None:
        try:
            storage.upload(path)
        except (StorageError, OSError) as error:
            log.warning("'%s' is not published: %s", path, error)

    return publish


class TrialLog:
    """Lines in logs/trials.log, whole even when several pools write at once. In an object store
    every process has a log of its own.
    """

    def __init__(self, storage: SweepStorage) -> None:
        self._storage, self._publish = storage, publisher(storage)
        self._path = storage.paths.trial_log
        if storage.store is not None:
            own = f"{provenance.host()}-{os.getpid()}-{secrets.token_hex(4)}"
            self._path = self._path.with_name(f"trials-{own}.log")
        self._until = 0.0

    def note(self, event: str, key: str, epoch: int) -> None:
        """Adds a line: when, what, which trial, which process, and the epochs behind the trial."""
        line = f"{time.time():.3f} {event} {key} {os.getpid()} {epoch}\n".encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            log.warning("not in the trial log: %s %s: %s", event, key, error)
        if time.monotonic() > self._until:
            self.publish()

    def publish(self) -> None:
        """Makes it visible to other machines."""
        self._until = time.monotonic() + PERIOD
        if self._path.exists():
            self._publish(self._path)
