"""Whole files in a folder of this machine or in an object store (S3, GCS, Azure), by `obstore`.

A folder does not go through `obstore`: its `LocalStore` does not fsync, needs the folder to exist
and loses the error number. `LocalFolder` writes with fsync and rename instead.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from orchestrator.errors import LedgerError
from orchestrator.storage.buckets import credentials_hint, open_bucket
from orchestrator.storage.files import make_folder, read_file, storage_error, write_whole

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion
    from obstore.store import ObjectStore as Bucket

NO_FILE = -1
_PIECE = 8 * 2**20
_PARALLEL_PIECES = 4


class Storage(Protocol):
    """What the ledger asks of a place. Everything but a missing file raises `StorageError`."""

    at_once: int
    """Requests that it can answer at a time: 1 where one after the other is as quick."""

    def sizes(self, folder: str) -> dict[str, int]:
        """File name → bytes of a folder; empty when the folder does not exist.

        `NO_FILE` instead of the bytes for what is no regular file: a folder, a pipe, a broken link.
        """

    def exists(self, folder: str, name: str) -> bool:
        """Whether the file is visible."""

    def read(self, folder: str, name: str) -> bytes:
        """All bytes; `FileNotFoundError` when it is gone."""

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Make the file visible whole, or not at all."""

    def create(self, folder: str, name: str, data: bytes) -> bool:
        """As `write`, but only if there is no such file: False leaves the one that is there."""

    def delete(self, folder: str, name: str) -> None:
        """Delete the file; one that is gone already is fine."""

    def clean(self) -> int:
        """Delete what interrupted writes left; how many files."""

    def path(self, folder: str, name: str) -> str:
        """The file as a person would name it."""


def storage(uri: str | Path) -> Storage:
    """The storage at a path, or at a `file://`, `s3://`, `gs://` or `az://` address."""
    scheme, separator, rest = str(uri).partition("://")
    if not separator:
        return LocalFolder(Path(uri))
    if scheme == "file":
        return LocalFolder(Path(unquote(rest)))
    bucket, _, root = rest.partition("?")[0].partition("/")
    shown = f"{scheme}://{bucket.rpartition('@')[2]}/{root}"  # no credentials, no options
    try:
        return ObjectStore(*open_bucket(str(uri)), root, shown)
    except (BaseError, OSError, ValueError) as error:
        raise LedgerError(
            f"the address '{shown}' cannot be used ({_why(error)}). Allowed: a folder, file://, "
            "s3://, gs:// or az://."
        ) from None  # the cause quotes the address with its options


class LocalFolder:
    """POSIX: files are written in `tmp/` and renamed."""

    at_once = 1

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self, folder: str) -> dict[str, int]:
        with _explained(f"read the ledger folder '{self._root / folder}'"):
            try:
                with os.scandir(self._root / folder) as entries:
                    return dict(filter(None, map(_entry, entries)))
            except FileNotFoundError:
                return {}

    def exists(self, folder: str, name: str) -> bool:
        with _explained(f"look up '{self.path(folder, name)}'"):
            return (self._root / folder / name).exists()

    def read(self, folder: str, name: str) -> bytes:
        with _explained(f"read '{self.path(folder, name)}'"):
            return read_file(self._root / folder / name, None)

    def write(self, folder: str, name: str, data: bytes) -> None:
        self._write(folder, name, data, replace=True)

    def create(self, folder: str, name: str, data: bytes) -> bool:
        try:
            self._write(folder, name, data, replace=False)
        except FileExistsError:
            return False
        return True

    def delete(self, folder: str, name: str) -> None:
        with _explained(f"delete '{self.path(folder, name)}'"):
            (self._root / folder / name).unlink(missing_ok=True)

    def clean(self) -> int:
        left = [name for name, size in self.sizes("tmp").items() if size != NO_FILE]
        for name in left:
            self.delete("tmp", name)
        return len(left)

    def path(self, folder: str, name: str) -> str:
        return str(self._root / folder / name)

    def _write(self, folder: str, name: str, data: bytes, replace: bool) -> None:
        target, temporary = self._root / folder / name, self._root / "tmp"
        with _explained(f"write '{target}'", writes=True):
            make_folder(target.parent)
            make_folder(temporary)
            write_whole(target, data, temporary, replace)


@dataclass(frozen=True)
class Version:
    """One version of an object: no two writes have the same `e_tag` and `generation`."""

    e_tag: str | None
    generation: str | None


class ObjectStore:
    """A folder of a bucket: each file is written by one atomic request, never in part.

    Args:
        bucket: of obstore.
        quick: the same with short time-outs, for small objects that must not keep anybody waiting.
        root: the folder in the bucket; empty for the whole bucket.
        shown: the folder's address as a person may see it.
    """

    at_once = 16

    def __init__(self, bucket: Bucket, quick: Bucket, root: str, shown: str) -> None:
        self._bucket, self._quick = bucket, quick
        self._root, self._shown = root.strip("/"), shown.rstrip("/")

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: size for name, size in self._list(folder, deep=False) if "/" not in name}

    def walk(self, folder: str) -> dict[str, int]:
        """Path below `folder` → bytes, of every file there at any depth."""
        return dict(self._list(folder, deep=True))

    def exists(self, folder: str, name: str) -> bool:
        with self._explained("look up", folder, name):
            try:
                obstore.head(self._bucket, self._key(folder, name))
            except FileNotFoundError:
                return False
            return True

    def read(self, folder: str, name: str) -> bytes:
        with self._explained("read", folder, name):
            return bytes(obstore.get(self._bucket, self._key(folder, name)).bytes())

    def write(self, folder: str, name: str, data: bytes) -> None:
        with self._explained("write", folder, name):
            obstore.put(self._bucket, self._key(folder, name), data, use_multipart=False)

    def create(self, folder: str, name: str, data: bytes) -> bool:
        with self._explained("write", folder, name):
            try:
                obstore.put(self._bucket, self._key(folder, name), data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def read_version(self, name: str) -> tuple[bytes, Version | None]:
        """A small object and its version; no bytes and None if there is none."""
        with self._explained("read", "", name):
            try:
                found = obstore.get(self._quick, self._key("", name))
            except FileNotFoundError:
                return b"", None
            data = bytes(found.bytes())
            return data, Version(found.meta["e_tag"], found.meta["version"])

    def replace(self, name: str, data: bytes, old: Version | None) -> Version | None:
        """Write a small object if its version still is `old` (None: if there is none).

        Returns the new version, or None if the condition does not hold. The request may be
        repeated after an answer was lost, so None may also mean that `data` is there already.
        """
        mode: PutMode = "create"
        if old is not None:
            update: UpdateVersion = {"e_tag": old.e_tag}
            if old.generation is not None:
                update["version"] = old.generation
            mode = update
        with self._explained("write", "", name):
            try:
                made = obstore.put(self._quick, self._key("", name), data, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return None
            return Version(made["e_tag"], made["version"])

    def delete(self, folder: str, name: str) -> None:
        with self._explained("delete", folder, name), suppress(FileNotFoundError):
            obstore.delete(self._bucket, self._key(folder, name))

    def clean(self) -> int:
        return 0

    def path(self, folder: str, name: str) -> str:
        return _inside(self._shown, folder, name)

    def upload(self, source: Path, folder: str, name: str) -> None:
        """Make a local file of any size visible, whole or not at all; it is sent in pieces."""
        with self._explained("write", folder, name):
            pieces: Any = {"chunk_size": _PIECE, "max_concurrency": _PARALLEL_PIECES}
            obstore.put(self._bucket, self._key(folder, name), source, **pieces)

    def download(self, folder: str, name: str, target: Path) -> None:
        """Writes the file's bytes to a local one; `FileNotFoundError` when it is gone."""
        with self._explained("read", folder, name):
            pieces = obstore.get(self._bucket, self._key(folder, name)).stream(_PIECE)
            with open(target, "wb") as file:
                for piece in pieces:
                    file.write(piece)

    def _list(self, folder: str, deep: bool) -> Iterator[tuple[str, int]]:
        start = self._key(folder, "")
        with self._explained("list", folder, ""):
            if deep:
                found = obstore.list(self._bucket, start or None).collect()
            else:
                found = obstore.list_with_delimiter(self._bucket, start or None)["objects"]
        below = len(start) + 1 if start else 0
        for entry in found:
            yield entry["path"][below:], entry["size"]

    def _key(self, folder: str, name: str) -> str:
        return _inside(self._root, folder, name)

    def _explained(self, verb: str, folder: str, name: str) -> AbstractContextManager[None]:
        scheme = self._shown.partition("://")[0]
        return _explained(f"{verb} '{self.path(folder, name)}'", verb == "write", scheme)


def _inside(*parts: str) -> str:
    """A path of which some parts may be empty."""
    return "/".join(filter(None, parts))


def _entry(entry: os.DirEntry[str]) -> tuple[str, int] | None:
    """Name and size; None for what was deleted while the folder was read."""
    try:
        return entry.name, entry.stat().st_size if entry.is_file() else NO_FILE
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return entry.name, NO_FILE
        raise


@contextmanager
def _explained(action: str, writes: bool = False, scheme: str = "") -> Iterator[None]:
    """Turns every error of a disk or a store into `StorageError`.

    What is missing stays a `FileNotFoundError`, and what is there already a `FileExistsError`; but
    for a write `FileNotFoundError` means that the folder or bucket is missing.
    """
    try:
        yield
    except FileExistsError:
        raise
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError) and not writes:
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise storage_error(action, error) from error
        raise storage_error(
            action, OSError(_why(error)), credentials_hint(scheme, str(error))
        ) from error


def _why(error: Exception) -> str:
    """What an error of obstore says, in one line, without addresses: they may hold a signature."""
    text = str(error).partition("\n\nDebug source")[0]
    if answer := re.search(r"<Message>(.*?)</Message>", text, re.DOTALL):
        return " ".join(answer[1].split())
    return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text.rpartition(" - ")[2].strip())
