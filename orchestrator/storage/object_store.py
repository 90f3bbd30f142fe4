"""Where ledger files lie: a folder of this machine, or anything pyarrow reaches by URI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from orchestrator.errors import LedgerError, StorageError
from orchestrator.storage.addresses import location
from orchestrator.storage.files import make_folder, write_whole

_PIECE = 8 * 2**20


class Storage(Protocol):
    """What the ledger asks of a place. Everything but a missing file raises `StorageError`."""

    at_once: int
    """Requests that it can answer at a time: 1 where one after the other is as quick."""

    def sizes(self, folder: str) -> dict[str, int]:
        """File name → bytes of a folder; empty when the folder does not exist."""

    def exists(self, folder: str, name: str) -> bool:
        """Whether the file is visible."""

    def read(self, folder: str, name: str) -> bytes:
        """All bytes; `FileNotFoundError` when it is gone."""

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Make the file visible whole, or not at all."""

    def delete(self, folder: str, name: str) -> None:
        """Delete the file; one that is gone already is fine."""

    def clean(self) -> int:
        """Delete what interrupted writes left; how many files."""

    def path(self, folder: str, name: str) -> str:
        """The file as a person would name it."""


def storage(uri: str | Path, filesystem: pafs.FileSystem | None = None) -> Storage:
    """The place at `uri`: a path, `file://`, `s3://`, `gs://`, or a path inside `filesystem`."""
    if filesystem is not None:
        return ObjectStore(filesystem, str(uri), str(uri))
    if "://" not in str(uri):
        return LocalFolder(Path(uri))
    shown = location(uri)
    try:
        found, path = pafs.FileSystem.from_uri(_with_single_put(str(uri)))
    except (pa.ArrowException, OSError, ValueError) as error:
        why = _line(error).replace(str(uri), shown)
        raise LedgerError(
            f"the address '{shown}' cannot be used ({why}). Allowed: a folder, file://, "
            "s3:// or gs://."
        ) from error
    if isinstance(found, pafs.LocalFileSystem):
        return LocalFolder(Path(path))
    return ObjectStore(found, path, shown)


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
            return (self._root / folder / name).read_bytes()

    def write(self, folder: str, name: str, data: bytes) -> None:
        target, temporary = self._root / folder / name, self._root / "tmp"
        with _explained(f"write '{target}'", missing_is_error=True):
            make_folder(target.parent)
            make_folder(temporary)
            write_whole(target, data, temporary)

    def delete(self, folder: str, name: str) -> None:
        with _explained(f"delete '{self.path(folder, name)}'"):
            (self._root / folder / name).unlink(missing_ok=True)

    def clean(self) -> int:
        left = self.sizes("tmp")
        for name in left:
            self.delete("tmp", name)
        return len(left)

    def path(self, folder: str, name: str) -> str:
        return str(self._root / folder / name)


class ObjectStore:
    """A pyarrow filesystem: each file is written with a single PUT, so nothing is ever partial."""

    at_once = 16

    def __init__(self, filesystem: pafs.FileSystem, root: str, shown: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._shown = shown.rstrip("/")
        self._made: set[str] = set()

    def sizes(self, folder: str) -> dict[str, int]:
        selector = pafs.FileSelector(_inside(self._root, folder), allow_not_found=True)
        with _explained(f"list '{_inside(self._shown, folder)}'"):
            found = self._filesystem.get_file_info(selector)
        return {info.base_name: info.size for info in found if info.is_file}

    def exists(self, folder: str, name: str) -> bool:
        with _explained(f"look up '{self.path(folder, name)}'"):
            info = self._filesystem.get_file_info(_inside(self._root, folder, name))
        return bool(info.is_file)

    def read(self, folder: str, name: str) -> bytes:
        with (
            _explained(f"read '{self.path(folder, name)}'"),
            self._filesystem.open_input_stream(_inside(self._root, folder, name)) as stream,
        ):
            return bytes(stream.readall())

    def write(self, folder: str, name: str, data: bytes) -> None:
        with _explained(f"write '{self.path(folder, name)}'", missing_is_error=True):
            self._make(folder)
            stream = self._filesystem.open_output_stream(_inside(self._root, folder, name))
            # No `with`: closing is what makes the object visible, and a failed write must not.
            stream.write(data)
            stream.close()

    def delete(self, folder: str, name: str) -> None:
        with _explained(f"delete '{self.path(folder, name)}'"):
            try:
                self._filesystem.delete_file(_inside(self._root, folder, name))
            except FileNotFoundError:
                return

    def clean(self) -> int:
        return 0

    def path(self, folder: str, name: str) -> str:
        return _inside(self._shown, folder, name)

    def walk(self, folder: str) -> dict[str, int]:
        """Path below `folder` → bytes, of every file there at any depth."""
        selector = pafs.FileSelector(
            _inside(self._root, folder), recursive=True, allow_not_found=True
        )
        with _explained(f"list '{_inside(self._shown, folder)}'"):
            found = self._filesystem.get_file_info(selector)
        start = len(_inside(self._root, folder)) + 1
        return {info.path[start:]: info.size for info in found if info.is_file}

    def upload(self, source: Path, folder: str, name: str) -> None:
        """Makes the bytes of a local file visible, whole or not at all; in pieces, so that it may
        be of any size.
        """
        with _explained(f"write '{self.path(folder, name)}'", missing_is_error=True):
            self._make(folder)
            with open(source, "rb") as file:
                stream = self._filesystem.open_output_stream(_inside(self._root, folder, name))
                while data := file.read(_PIECE):
                    stream.write(data)
                stream.close()  # no `with`, as in `write`

    def download(self, folder: str, name: str, target: Path) -> None:
        """Writes the file's bytes to a local one; `FileNotFoundError` when it is gone."""
        with (
            _explained(f"read '{self.path(folder, name)}'"),
            self._filesystem.open_input_stream(_inside(self._root, folder, name)) as stream,
            open(target, "wb") as file,
        ):
            while data := stream.read(_PIECE):
                file.write(data)

    def _make(self, folder: str) -> None:
        """Folders are needed where they are more than the beginning of a name."""
        if folder not in self._made and self._filesystem.type_name not in ("s3", "gcs"):
            self._filesystem.create_dir(_inside(self._root, folder), recursive=True)
        self._made.add(folder)


def _inside(*parts: str) -> str:
    """A path of which some parts may be empty."""
    return "/".join(filter(None, parts))


def _with_single_put(uri: str) -> str:
    """An S3 address with pyarrow's option to write small objects by one PUT, not in parts."""
    if not uri.startswith("s3://"):
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _entry(entry: os.DirEntry[str]) -> tuple[str, int] | None:
    """Name and size; None for what is not a file or was deleted while the folder was read."""
    try:
        return (entry.name, entry.stat().st_size) if entry.is_file() else None
    except FileNotFoundError:
        return None


@contextmanager
def _explained(action: str, missing_is_error: bool = False) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if not missing_is_error:
            raise
        raise _failure(action, error) from error
    except OSError as error:
        raise _failure(action, error) from error


def _failure(action: str, error: OSError) -> StorageError:
    return StorageError(
        f"cannot {action}: {_line(error)}. Nothing was lost; check free space, permissions and the "
        "connection, then run the same command again."
    )


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
