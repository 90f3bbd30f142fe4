"""A lease in an object store: at any moment at most one command holds it.

The object `.lease.json` names its holder and carries a number that the holder raises every `BEAT`
seconds. It is only ever written conditionally: created if there is none, replaced if it still is
the version that the writer has read (its e-tag).

Guarantee. Two commands never hold the lease at one moment:

1. A holder relies on a write for `VALID` seconds, counted from before it sent the request. After
   that it does not hold the lease (`held` is false) until a later write has succeeded.
2. Another command replaces a version only after it has seen that version, unchanged, for `TAKEOVER`
   seconds. It can see a version only after the holder has sent it, so the replacement happens more
   than `TAKEOVER` > `VALID` seconds after that.
3. If the holder writes in the meantime, the version changes and the replacement is refused.

Both periods are measured by each machine's own clock since boot, which also runs while the machine
sleeps. Wall clocks are never compared; the rates of two clocks may differ by a quarter.

What it does not guarantee. A process that is stopped between a check and the request after it sends
the request when it goes on, whoever holds the lease by then. Rows are therefore only created, never
replaced, and a trial's row is the same whoever trains it. Nobody may delete the object by hand
while a command runs.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from orchestrator.errors import StorageError, SweepConflict
from orchestrator.storage.files import parse_json, storage_error
from orchestrator.storage.folder_lock import describe_holder, no_longer_held, running
from orchestrator.storage.object_store import ObjectStore, Version
from orchestrator.storage.retry import log

NAME = ".lease.json"
BEAT, READ_EVERY = 5.0, 5.0
VALID, TAKEOVER = 15.0, 20.0
_POLL_S = 0.5
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

Content = dict[str, Any]


class Lease:
    """Context manager: the right to plan and write in the object store `store`.

    Args:
        store: where the sweep lies.
        name: its address, for messages.
        token: names this command.
        dead: the token of a command that is known to have ended; its lease is replaced at once.
        waiting: called with a sentence for the user if there is something to wait for.
        lost: called, in another thread, once another command holds the lease.

    Entering raises `SweepConflict` when another command holds the lease. Leaving releases it.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        token: str,
        dead: str = "",
        waiting: Callable[[str], None] = lambda _: None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._name, self._token, self._dead = store, name, token, dead
        self._waiting, self._on_loss = waiting, lost
        self._started, self._beats = time.time(), 0
        self._version: Version | None = None
        self._until = 0.0
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._acquire()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._until = 0.0
        if not self._lost:
            self._release()

    @property
    def held(self) -> bool:
        """Whether this command holds the lease now."""
        return not self._lost and _now() < self._until

    def check(self) -> None:
        """Returns when this command holds the lease, after waiting for a renewal if need be.

        Raises `SweepConflict` if another command holds it, and `StorageError` if the store cannot
        be reached for `TAKEOVER` seconds.
        """
        deadline = _now() + TAKEOVER
        while not self.held:
            self.raise_if_lost()
            if _now() > deadline:
                raise storage_error(
                    f"renew the lease of '{self._name}'", TimeoutError("the store does not answer")
                )
            time.sleep(_POLL_S)

    def raise_if_lost(self) -> None:
        """Raises `SweepConflict` if another command has taken the lease."""
        if self._lost:
            raise SweepConflict(
                f"another command has taken '{self._name}' over, because this one did not renew "
                f"its lease for {TAKEOVER:g} s; this one ends. Nothing recorded is lost."
            )

    def _acquire(self) -> None:
        content, version = read(self._store)
        if _is_held(content) and content.get("token") != self._dead:
            version = self._wait_for_expiry(content, version)
        while not self._write(version):
            content, version = read(self._store)
            if _is_held(content):
                raise SweepConflict(running(self._name, content))

    def _release(self) -> None:
        try:
            free = json.dumps({"token": self._token, "released": True}).encode()
            self._store.replace(NAME, free, self._version)
        except StorageError as problem:  # the next command finds it expired
            log.warning("the lease of '%s' was not released: %s", self._name, problem)

    def _wait_for_expiry(self, first: Content, version: Version | None) -> Version | None:
        """The version to replace, once its holder has released it or not renewed it in time."""
        seen = _now()  # after the answer: the version was written before
        self._waiting(
            f"'{self._name}' has the lease of {describe_holder(first)}; watching for "
            f"{TAKEOVER:g} s whether that still runs"
        )
        while _now() - seen < TAKEOVER:
            time.sleep(_POLL_S)
            content, now = read(self._store)
            if now != version and _is_held(content):
                raise SweepConflict(running(self._name, content))
            if now != version:
                return now
        return version

    def _keep(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if not self._write(self._version):
                    self._lost = True
                    self._on_loss()
                    return
            except StorageError as error:  # `held` turns false by itself
                log.warning("the lease is not renewed: %s", error)

    def _write(self, version: Version | None) -> bool:
        """Replace `version` by a new one of this command; False if there is another's by now."""
        while True:
            self._beats += 1
            content = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": self._started,
                "token": self._token,
                "beat": self._beats,
            }
            sent = _now()
            written = self._store.replace(NAME, json.dumps(content).encode(), version)
            if written is not None:
                self._version, self._until = written, sent + VALID
                return True
            # A request of ours whose answer was lost may have succeeded; if so, go on from there.
            found, version = read(self._store)
            if found.get("token") != self._token:
                return False


class LeaseReader:
    """What a worker sees of the lease that it works for."""

    def __init__(self, store: ObjectStore, name: str, token: str) -> None:
        self._store, self._name, self._token = store, name, token
        self._until = 0.0

    def check(self, now: bool = False) -> None:
        """Raises `SweepConflict` if the lease is not the command's any more.

        Reads it every `READ_EVERY` seconds, or `now`; then `StorageError` if it cannot be read.
        """
        if not now and _now() < self._until:
            return
        try:
            found, _ = read(self._store)
        except StorageError as error:
            if now:
                raise
            log.warning("the lease cannot be read: %s", error)  # before a row it must be
        else:
            if found.get("token") != self._token or not _is_held(found):
                raise no_longer_held(self._name)
        self._until = _now() + READ_EVERY


def read(store: ObjectStore) -> tuple[Content, Version | None]:
    """The lease and its version; no content if there is none, or none that makes sense."""
    data, version = store.read_version(NAME)
    try:
        content = parse_json(data)
    except ValueError:
        return {}, version
    return (content if isinstance(content, dict) else {}), version


def _is_held(content: Content) -> bool:
    return bool(content) and not content.get("released")


def _now() -> float:
    return time.clock_gettime(_CLOCK)
