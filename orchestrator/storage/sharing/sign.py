"""The sign that a command leaves, and what other machines see of it."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from orchestrator.errors import InvalidInput
from orchestrator.storage.sharing.mounts import filesystem
from orchestrator.storage.sharing.spots import Folder, Sign, spot
from orchestrator.storage.sharing.words import is_uri, said

PATIENCE = 1.5
"""Seconds for which a file that must be there may stay unseen."""
_SIGN, _LOCK = "sign", "lock"

Locks = Literal["kept", "ignored", "refused", ""]
"""Whether a machine is kept out by a lock that another one holds; empty: nothing to lock."""


@dataclass(frozen=True)
class Sight:
    """What a machine saw of a sign; `problem` is empty if it saw it and could answer.

    `kind` is the file system's, `answer` what it wrote, to be found in the file `file`.
    """

    problem: str = ""
    kind: str = ""
    file: str = ""
    answer: str = ""
    locks: Locks = ""


class Shared:
    """Context manager: a sign in `place`, removed in the end with all that was written beside it.

    A folder that does not exist is made, and removed too. `OSError` if nothing can be written
    there, `InvalidInput` for an address that is none.
    """

    def __init__(self, place: str | Path) -> None:
        name = f".orchestrate-{secrets.token_hex(6)}"
        named = str(place) if is_uri(place) else str(Path(place).absolute())
        self.sign = Sign(named, name, secrets.token_hex(16))
        self._spot = spot(self.sign)
        self._locked = -1
        self.locks: Locks = ""
        """Whether this machine could lock a file there."""

    def __enter__(self) -> Self:
        self._spot.make()
        try:
            self._spot.put(_SIGN, self.sign.content.encode())
            if isinstance(self._spot, Folder):
                self._lock(self._spot.path / _LOCK)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def confirm(self, sight: Sight) -> str:
        """What is wrong with a machine's sight of the place; empty if its answer came back."""
        if sight.problem:
            return sight.problem
        try:
            found = _await(lambda: self._spot.get(sight.file))
        except OSError as error:
            return f"what it wrote does not arrive here ({said(error)})"
        return "" if found == sight.answer.encode() else "what it wrote arrives here as another"

    def _lock(self, path: Path) -> None:
        self._locked = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.locks = "kept"
        except OSError:
            self.locks = "refused"

    def _end(self) -> None:
        if self._locked >= 0:
            os.close(self._locked)  # before it is removed: NFS keeps open files under another name
            self._locked = -1
        self._spot.remove()


def look(sign: Sign) -> Sight:
    """What this machine sees of a sign; it answers beside it and makes no folder."""
    try:
        where = spot(sign)
        kind = filesystem(Path(sign.place)) if isinstance(where, Folder) else ""
        try:
            found = _await(lambda: where.get(_SIGN))
        except FileNotFoundError:
            return Sight(_unseen(sign, kind), kind)
        if found != sign.content.encode():
            return Sight("it reads something else than was written", kind)
        file, answer = f"answer-{secrets.token_hex(6)}", secrets.token_hex(16)
        locks = _tried(where.path / _LOCK) if isinstance(where, Folder) else ""
        where.put(file, answer.encode())
        return Sight("", kind, file, answer, locks)
    except (OSError, InvalidInput) as error:
        return Sight(said(error))


def _await(read: Callable[[], bytes]) -> bytes:
    """What `read` returns, once the file is there; its `FileNotFoundError` after `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return read()
        except FileNotFoundError:
            if time.monotonic() > until:
                raise
        time.sleep(0.1)


def _unseen(sign: Sign, kind: str) -> str:
    if is_uri(sign.place):
        return "what was written here is not there"
    if not Path(sign.place).is_dir():
        return "there is no such folder"
    return f"a folder of its own ({kind or 'another disk'})"


def _tried(path: Path) -> Locks:
    """Tries to take a lock that the command holds."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return "refused"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "ignored"
    except BlockingIOError:
        return "kept"
    except OSError:
        return "refused"
    finally:
        os.close(handle)
