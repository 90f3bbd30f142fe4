"""Who may write in a sweep: one command, and the workers that it started.

A lock on the folder does that on one machine and over NFS. An object store has no locks: there the
lock on this machine's working copy is joined by a lease in the store.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from orchestrator.storage.folder_lock import FolderLock, hold_worker_lock, token_of
from orchestrator.storage.lease import Lease, LeaseReader
from orchestrator.storage.sweep_storage import SweepStorage


class SweepLock:
    """Context manager: the right to plan and write in a sweep; see `FolderLock` and `Lease`.

    `waiting` is called with a sentence for the user if there is something to wait for. A lease that
    is lost interrupts the main thread as Ctrl-C does, and ends in `SweepConflict`.
    """

    def __init__(self, storage: SweepStorage, waiting: Callable[[str], None]) -> None:
        self._storage, self._waiting = storage, waiting
        self._folder = FolderLock(storage.paths.out, waiting=waiting, name=storage.paths.name)
        self._lease: Lease | None = None
        self._held = ExitStack()

    @property
    def token(self) -> str:
        """Names this command's lock; workers show it."""
        return self._folder.token

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(self._folder)
            if self._storage.store is not None:
                name, former = self._storage.paths.name, self._folder.former
                options = (self._storage.store, name, self.token, former, self._waiting)
                self._lease = held.enter_context(Lease(*options, _thread.interrupt_main))
                self._storage.before_write = self._lease.check
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._storage.before_write = lambda: None
        self._held.close()
        if isinstance(error, KeyboardInterrupt) and self._lease is not None:
            self._lease.raise_if_lost()

    def check(self) -> None:
        """Raises `SweepConflict` if another command has taken the lease. A lock cannot be lost."""
        if self._lease is not None:
            self._lease.check()


class Worker:
    """A process that works for the command with the lock `token`, until it ends or calls `close`.

    Making one raises `SweepConflict` as `check` does, and as `hold_worker_lock`.
    """

    def __init__(self, storage: SweepStorage, token: str) -> None:
        self._lease: LeaseReader | None = None
        self._lock: int | None = None
        if storage.store is not None:
            self._lease = LeaseReader(storage.store, storage.paths.name, token)
            self._lease.check(now=True)
            if token_of(storage.paths.out) != token:
                return  # another machine's: there is no lock that anybody would wait for
        self._lock = hold_worker_lock(storage.paths.out, token)

    def check(self, now: bool = False) -> None:
        """Raises `SweepConflict` if another command holds the lease by now; see `LeaseReader`."""
        if self._lease is not None:
            self._lease.check(now)

    def close(self) -> None:
        """Lets the next command begin."""
        if self._lock is not None:
            os.close(self._lock)
