"""One command at a time per sweep in an object store, which has no locks.

`.lease.json` there names the command and carries a number that the command raises every `BEAT`
seconds. Another command watches the object for `WATCH` seconds. If it changes meanwhile it is
refused; if not, the holder is dead, and it writes its own token, waits for `SETTLE` seconds, and
reads the object again: of several that do so at once, only the one that wrote last finds its own.

What this guarantees. A holder that lives and reaches the store keeps the lease. One that has lost
it (it was stopped, or cut off, for longer than `WATCH`) finds another token at its next beat and
ends without writing a registry or report; its pools look every `LOOK` seconds, and before each row,
and end too.

What it does not. pyarrow's object stores have no conditional writes, so between a look and the
write after it another command may write: two may then believe for one `BEAT` that they hold the
lease. In such a moment a trial may be trained by both. The ledger still has one row for it: rows
are named by their trial's key, are only written where there is none, and both would write the same.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import StorageError, SweepConflict
from orchestrator.storage.object_store import ObjectStore
from orchestrator.storage.retry import log

NAME = ".lease.json"
BEAT, LOOK = 5.0, 5.0
WATCH, SETTLE = 20.0, 6.0
_POLL_S = 0.5

Content = dict[str, Any]


class Claim:
    """Context manager: the right to plan and write in the object store `store`.

    Args:
        store: where the sweep lies.
        name: it in words.
        token: of the lease on this machine's working copy.
        dead: the token of a command that ended on this machine; nobody needs to watch that one.
        waiting: called with a sentence for the user if there is something to wait for.
        lost: called, in another thread, once the lease is found to be another command's.

    Entering raises `SweepConflict` when another command holds the lease. Leaving gives it back.
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
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._outlive()
        self._write()
        time.sleep(SETTLE)
        found = read(self._store)
        if found.get("token") != self._token:
            raise SweepConflict(_held(self._name, found))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            if not self._lost and read(self._store).get("token") == self._token:
                self._store.delete("", NAME)
        except StorageError as problem:  # the next command finds it dead
            log.warning("the lease of '%s' stays: %s", self._name, problem)

    def check(self) -> None:
        """Raises `SweepConflict` if another command has taken the lease."""
        if self._lost:
            raise SweepConflict(
                f"another command has taken '{self._name}' over, because this one gave no sign for "
                f"{WATCH:g} s; this one ends. Nothing recorded is lost."
            )

    def _outlive(self) -> None:
        """Returns when nobody holds the lease: there is none, or its holder gives no sign."""
        first = read(self._store)
        if not first or first.get("token") == self._dead:
            return
        self._waiting(
            f"'{self._name}' has the lease of {_who(first)}; watching for {WATCH:g} s whether that "
            "still runs"
        )
        deadline = time.monotonic() + WATCH
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            now = read(self._store)
            if not now:
                return
            if now != first:
                raise SweepConflict(_held(self._name, now))

    def _keep(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if read(self._store).get("token") != self._token:
                    self._lost = True
                    self._on_loss()
                    return
                self._write()
            except StorageError as error:  # away for now: whoever needs it bears with it, or ends
                log.warning("no beat: %s", error)

    def _write(self) -> None:
        self._beats += 1
        content = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started,
            "token": self._token,
            "beat": self._beats,
        }
        self._store.write("", NAME, json.dumps(content).encode())


class Watch:
    """A worker's look at the lease that it works for."""

    def __init__(self, store: ObjectStore, name: str, token: str) -> None:
        self._store, self._name, self._token = store, name, token
        self._until = 0.0

    def check(self, now: bool = False) -> None:
        """Raises `SweepConflict` if the lease is another command's; looks every few seconds, or
        `now`. `StorageError` if it cannot look.
        """
        if not now and time.monotonic() < self._until:
            return
        try:
            found = read(self._store)
        except StorageError as error:
            if now:
                raise
            log.warning("cannot look for the lease: %s", error)  # before a row it must
            found = {"token": self._token}
        if found.get("token") != self._token:
            raise SweepConflict(
                f"the command that started this worker no longer holds '{self._name}'; the worker "
                "ends."
            )
        self._until = time.monotonic() + LOOK


def read(store: ObjectStore) -> Content:
    """The lease; empty if there is none, or if it is not one of ours."""
    try:
        content = json.loads(store.read("", NAME))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _who(holder: Content) -> str:
    if not {"pid", "host", "started"} <= holder.keys():
        return "another command"
    since = datetime.fromtimestamp(float(holder["started"])).astimezone()
    return (
        f"another command (process {holder['pid']} on {holder['host']}, since "
        f"{since:%Y-%m-%d %H:%M:%S %Z})"
    )


def _held(name: str, holder: Content) -> str:
    return (
        f"{_who(holder)} is running in '{name}'. Wait until it ends, stop it with Ctrl-C or "
        "`kill`, or give this one another place with --out."
    )
