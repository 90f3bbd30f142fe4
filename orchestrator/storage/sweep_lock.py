"""Who may write in a sweep's home: one command, and the workers that it started.

A lock on the folder (`lease`) does that on one machine and over NFS, and is let go by the system at
once when its holder dies. An object store has none: there the lock on this machine's working copy
is joined by a `claim` in the store.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.storage.folder_lock import SweepLease, WorkerLock, hold_orphan_lock, token_of
from orchestrator.storage.object_lease import Claim, Watch
from orchestrator.storage.sweep_storage import SweepStorage


def _nothing() -> None:
    """A lock cannot be lost."""


@dataclass(frozen=True)
class Hold:
    """A command's lease. `check` raises `SweepConflict` if it is another command's by now."""

    token: str
    check: Callable[[], None]


@contextmanager
def hold(storage: SweepStorage, say: Callable[[str], None]) -> Iterator[Hold]:
    """The right to plan and write in `home`; see `SweepLease` and `Claim`.

    A lease that is lost interrupts the main thread as Ctrl-C does, and ends in `SweepConflict`.
    """
    name, interrupt = storage.paths.name, _thread.interrupt_main
    with SweepLease(storage.paths.out, waiting=say, name=name) as lease:
        if storage.store is None:
            yield Hold(lease.token, _nothing)
            return
        with Claim(storage.store, name, lease.token, lease.former, say, interrupt) as claim:
            try:
                yield Hold(lease.token, claim.check)
            except KeyboardInterrupt:
                claim.check()
                raise


class Worker:
    """A process that works for the lease `token`, until it ends or calls `close`.

    Making one raises `SweepConflict` as `check` does, and as `hold_orphan_lock`.
    """

    def __init__(self, storage: SweepStorage, token: str) -> None:
        self._watch: Watch | None = None
        self._lock: WorkerLock | None = None
        if storage.store is not None:
            self._watch = Watch(storage.store, storage.paths.name, token)
            self._watch.check(now=True)
            if token_of(storage.paths.out) != token:
                return  # another machine's: there is no lock that anybody would wait for
        self._lock = hold_orphan_lock(storage.paths.out, token)

    def check(self, now: bool = False) -> None:
        """Raises `SweepConflict` if another command holds the lease by now; see `Watch`."""
        if self._watch is not None:
            self._watch.check(now)

    def close(self) -> None:
        """Lets the next command begin."""
        if self._lock is not None:
            self._lock.close()
