"""Check that machines see one and the same folder or bucket: write there and read it back.

The command writes a marker of random name and content (`SharedCheck`), every other machine looks
for it and writes an answer beside it (`check_marker`), and the command reads the answers
(`SharedCheck.confirm`). Everything is removed in the end. Every name is new, so that no NFS client
answers from its cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

from orchestrator.errors import InvalidInput, LedgerError
from orchestrator.storage.addresses import location
from orchestrator.storage.files import reason, write_whole

TIMEOUT = 1.5
"""Seconds for which a file that must be there may stay unseen."""
NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.")
"""How the names of file systems begin that several machines can mount."""
_MARKER, _LOCK = "marker", "lock"
_V = TypeVar("_V")

Locks = Literal["kept", "ignored", "refused", ""]
"""Whether a machine is kept out by a lock that another one holds; empty: nothing to lock."""


@dataclass(frozen=True)
class Marker:
    """What the command has written: `content`, in a file of the sub-folder `name` of `place`.

    `place` is an absolute path or the address of a folder in an object store.
    """

    place: str
    name: str
    content: str


@dataclass(frozen=True)
class MarkerReply:
    """What a machine saw of a marker; `problem` is empty if it saw it and could answer.

    `kind` is the file system's; `answer` is what the machine wrote into the file `file`.
    """

    problem: str = ""
    kind: str = ""
    file: str = ""
    answer: str = ""
    locks: Locks = ""


class SharedCheck:
    """Context manager: a marker in `place`, removed in the end with all that was written beside it.

    A folder that does not exist is created, and removed too. `OSError` if nothing can be written
    there, `InvalidInput` for an address that is none.
    """

    def __init__(self, place: str | Path) -> None:
        name = f".orchestrate-{secrets.token_hex(6)}"
        named = str(place) if is_uri(place) else str(Path(place).absolute())
        self.marker = Marker(named, name, secrets.token_hex(16))
        self._where = _where(self.marker)
        self._locked = -1
        self.locks: Locks = ""
        """Whether this machine could lock a file there."""

    def __enter__(self) -> Self:
        self._where.make()
        try:
            self._where.put(_MARKER, self.marker.content.encode())
            if isinstance(self._where, _MarkerFolder):
                self._lock(self._where.path / _LOCK)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def confirm(self, reply: MarkerReply) -> str:
        """What is wrong with a machine's view of the place; empty if its answer came back."""
        if reply.problem:
            return reply.problem
        try:
            found = _await(lambda: self._where.get(reply.file))
        except OSError as error:
            return f"what it wrote does not arrive here ({short_error(error)})"
        return "" if found == reply.answer.encode() else "what it wrote arrives here as another"

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
        self._where.remove()


def check_marker(marker: Marker) -> MarkerReply:
    """What this machine sees of a marker; it answers beside it and creates no folder."""
    try:
        where = _where(marker)
        kind = filesystem(where.path) if isinstance(where, _MarkerFolder) else ""
        try:
            found = _await(lambda: where.get(_MARKER))
        except FileNotFoundError:
            return MarkerReply(_unseen(marker, kind), kind)
        if found != marker.content.encode():
            return MarkerReply("it reads something else than was written", kind)
        file, answer = f"answer-{secrets.token_hex(6)}", secrets.token_hex(16)
        locks = _try_lock(where.path / _LOCK) if isinstance(where, _MarkerFolder) else ""
        where.put(file, answer.encode())
        return MarkerReply("", kind, file, answer, locks)
    except (OSError, InvalidInput) as error:
        return MarkerReply(short_error(error))


class _MarkerFolder:
    """The marker's sub-folder on a disk or an NFS share.

    The command calls `make` and `remove`; any machine may `put` and `get`.
    """

    def __init__(self, marker: Marker) -> None:
        self._place = Path(marker.place.removeprefix("file://"))
        self.path = self._place / marker.name
        self._made: list[Path] = []

    def make(self) -> None:
        self._made = [f for f in (self._place, *self._place.parents) if not f.exists()]
        try:
            self.path.mkdir(parents=True)
        except OSError:
            self.remove()
            raise
        self.path.chmod(0o777)  # another machine's user may have another number

    def put(self, name: str, data: bytes) -> None:
        write_whole(self.path / name, data)

    def get(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            for folder in (self._place, self.path):  # listing makes an NFS client ask its server
                with contextlib.suppress(OSError):
                    os.listdir(folder)
            raise

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # somebody else's already
                folder.rmdir()


class _MarkerPrefix:
    """The same in an object store, where the first file creates the folder."""

    def __init__(self, marker: Marker) -> None:
        from orchestrator.storage.object_store import ObjectStore, storage

        try:
            found = storage(marker.place)
        except LedgerError as error:
            raise InvalidInput(str(error)) from None
        assert isinstance(found, ObjectStore)  # file:// is a `_MarkerFolder`
        self._store, self._folder = found, marker.name

    def make(self) -> None:
        """Nothing: see the class."""

    def put(self, name: str, data: bytes) -> None:
        with _as_oserror():
            self._store.write(self._folder, name, data)

    def get(self, name: str) -> bytes:
        with _as_oserror():
            return self._store.read(self._folder, name)

    def remove(self) -> None:
        with contextlib.suppress(LedgerError):  # it could not be written, which `put` has reported
            for name in self._store.walk(self._folder):
                self._store.delete(self._folder, name)


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except LedgerError as error:
        raise OSError(str(error).partition(". ")[0]) from error


def _where(marker: Marker) -> _MarkerFolder | _MarkerPrefix:
    """Where a marker is; `InvalidInput` for an address that is none."""
    local = not is_uri(marker.place) or marker.place.startswith("file://")
    return _MarkerFolder(marker) if local else _MarkerPrefix(marker)


def _await(read: Callable[[], bytes]) -> bytes:
    """What `read` returns, once the file is there; its `FileNotFoundError` after `TIMEOUT`."""
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            return read()
        except FileNotFoundError:
            if time.monotonic() > until:
                raise
        time.sleep(0.1)


def _unseen(marker: Marker, kind: str) -> str:
    if is_uri(marker.place):
        return "what was written here is not there"
    if not Path(marker.place).is_dir():
        return "there is no such folder"
    return f"a folder of its own ({kind or 'another disk'})"


def _try_lock(path: Path) -> Locks:
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


def filesystem(path: Path) -> str:
    """The kind of file system that `path`, or the nearest folder above it, lies on: ext4, nfs4, …

    Empty where the system does not say.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    mounts = (_mount(number, line, real) for number, line in enumerate(lines))
    return max(filter(None, mounts), default=(0, 0, ""))[2]


def is_network(kind: str) -> bool:
    """Whether a file system of this kind can be mounted by several machines."""
    return kind.startswith(NETWORK)


def _mount(number: int, line: str, path: str) -> tuple[int, int, str] | None:
    """Of a line of mountinfo that `path` lies below: depth, number (later ones hide), kind."""
    before, _, after = line.partition(" - ")
    escaped = before.split(" ")[4]  # \\040 stands for a space
    point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), escaped)
    inside = path == point or path.startswith(point.rstrip("/") + "/")
    return (len(point), number, after.split(" ")[0]) if inside else None


def is_uri(place: str | Path) -> bool:
    """Whether a place is an address (s3://…) and not a path; `file://` counts as a path's."""
    return "://" in str(place)


def short_error(error: Exception) -> str:
    """An error in one short line without credentials."""
    return " ".join(location(word) for word in reason(error).split())


def by_value(values: Mapping[str, _V]) -> dict[_V, list[str]]:
    """Value → the names that have it, in their order."""
    found: dict[_V, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def describe_problems(problems: Mapping[str, str]) -> str:
    """Machine → what is wrong with it (empty: nothing), as one phrase, grouped by problem."""
    grouped = by_value(problems).items()
    return "; ".join(f"{name_list(names)}: {problem}" for problem, names in grouped if problem)


def name_list(names: Sequence[str], most: int = 4) -> str:
    """Names in one phrase; of more than `most`, the first ones and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
