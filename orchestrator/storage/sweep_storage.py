"""The files of a sweep: in a folder of this machine, or in an object store.

In an object store only the ledger is read and written in place. Every other file is first written
to a working copy on this machine, which the processes of the machine share. Files that must outlive
the machine are uploaded, each whole, before anything refers to them, and downloaded where they are
needed. For a plain folder all of these operations do nothing, so callers need no case distinction.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl

from orchestrator.errors import InvalidInput, StorageError
from orchestrator.storage.addresses import ANONYMOUS
from orchestrator.storage.buckets import ALLOWED, WHERE
from orchestrator.storage.files import (
    check_path,
    make_folder,
    read_file,
    storage_error,
    write_whole,
)
from orchestrator.storage.object_store import ObjectStore, storage
from orchestrator.storage.sweep_paths import SweepPaths

SCHEMES = ("file", *WHERE)
_BUCKET = re.compile(r"[\w.$-]+", re.ASCII)
_MARKER = ".home"


class SweepStorage:
    """Upload and download the files of `paths`, which are those of the working copy.

    Every error of the store, or of the disk of the working copy, is a `StorageError`.
    """

    def __init__(self, paths: SweepPaths) -> None:
        self.paths = paths
        self.before_write: Callable[[], None] = lambda: None
        """Called before anything is written to the store; raises if it must not be."""
        self.store: ObjectStore | None = None
        if paths.uri:
            found = storage(paths.uri)
            assert isinstance(found, ObjectStore)  # `paths_of` ensures it
            self.store = found
            self._write_marker()

    @classmethod
    def at(cls, place: str | Path) -> Self:
        """The storage at a folder or address; `InvalidInput` for an address that is none."""
        return cls(paths_of(place))

    def upload(self, *files: Path) -> None:
        """Make files visible to all machines, each whole, in this order."""
        if self.store is not None:
            self.before_write()
            for path in files:
                self.store.upload(path, *self._address(path))

    def upload_from(self, source: Path, target: Path, *names: str) -> None:
        """Make files of the folder `source` visible as files of `target`, in this order."""
        if self.store is not None:
            self.before_write()
            for name in names:
                self.store.upload(source / name, *self._address(target / name))

    def upload_folder(self, folder: Path, last: Path) -> None:
        """Mirror a folder to the store: upload its files, `last` at the end, then delete others."""
        if self.store is None:
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path != last)
        self.upload(*files, last)
        kept = {_below(folder, path) for path in (*files, last)}
        self._delete(folder, self.store.walk(self._name(folder)).keys() - kept)

    def download(self, *files: Path) -> None:
        """Make files here as they are in the store: written, or deleted."""
        if self.store is not None:
            for path in files:
                self._fetch(path)

    def sync_down(self, folder: Path, growing: bool = False) -> None:
        """Mirror a folder of the store here, with its sub-folders.

        `growing` is for append-only files, some of them written on this machine: one is downloaded
        only if the store's is longer, and none is deleted.
        """
        if self.store is None:
            return
        sizes = self.store.walk(self._name(folder))
        self._check_names(folder, sizes)
        here = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        wanted = [folder / name for name in sizes]
        if growing:
            wanted = [path for path in wanted if sizes[_below(folder, path)] > here.get(path, -1)]
        else:
            for path in here.keys() - set(wanted):
                path.unlink(missing_ok=True)
        with ThreadPoolExecutor(self.store.at_once) as threads:
            list(threads.map(self._fetch, wanted))

    def remove(self, path: Path) -> None:
        """Delete a file, here and in the store; `OSError` if it cannot be deleted here."""
        path.unlink(missing_ok=True)
        if self.store is not None:
            self.before_write()
            self.store.delete(*self._address(path))

    def remove_folder(self, folder: Path) -> None:
        """Delete a folder with its content, here and in the store."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.store is not None:
            self._delete(folder, self.store.walk(self._name(folder)))

    def _write_marker(self) -> None:
        """Write the sweep's address into the working copy, so that commands may name the copy."""
        marker = self.paths.out / _MARKER
        try:
            make_folder(marker.parent)
            if _marker(self.paths.out) != self.paths.uri:
                write_whole(marker, self.paths.uri.encode())
        except OSError as error:
            raise storage_error(f"write '{marker}'", error) from error

    def _fetch(self, path: Path) -> None:
        assert self.store is not None
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            make_folder(path.parent)
            self.store.download(*self._address(path), draft)
            draft.replace(path)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(f"write '{path}'", error) from error
        finally:
            draft.unlink(missing_ok=True)

    def _delete(self, folder: Path, names: Iterable[str]) -> None:
        assert self.store is not None
        self.before_write()
        for name in names:
            self.store.delete(*self._address(folder / name))

    def _address(self, path: Path) -> tuple[str, str]:
        folder, _, name = self._name(path).rpartition("/")
        return folder, name

    def _name(self, path: Path) -> str:
        return _below(self.paths.out, path)

    def _check_names(self, folder: Path, names: Iterable[str]) -> None:
        """`StorageError` for a name that would lead out of the folder."""
        for name in names:
            if "\0" in name or {"", ".", ".."} & set(name.split("/")):
                raise StorageError(
                    f"'{self.paths.shown(folder)}' has an object with the name {name!r}, which "
                    "leads out of its folder. Delete it, then run the same command again."
                )


def _marked(out: Path) -> str:
    """The address whose working copy a folder is; empty for any other folder."""
    found = _marker(out)
    if found is None:
        return ""
    if found.partition("://")[0] not in WHERE:
        raise InvalidInput(
            f"'{out / _MARKER}' says {found!r:.80}, which is no address of a sweep that the folder "
            "could be a copy of. Delete the file, or name the sweep's own address."
        )
    return found


def _marker(out: Path) -> str | None:
    try:
        return read_file(out / _MARKER).decode(errors="replace")
    except OSError:
        return None


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def paths_of(place: str | Path) -> SweepPaths:
    """The paths of a sweep at a folder or address; `InvalidInput` for an address that is none.

    The folder of a working copy stands for the address that it is a copy of.
    """
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        check_path(place, "the folder")
        return SweepPaths(Path(place), _marked(Path(place)))
    if scheme not in SCHEMES:
        raise InvalidInput(
            f"'{scheme}://' is no kind of address that a sweep can lie at. Allowed: a folder, "
            f"file:///FOLDER, {ALLOWED}."
        )
    address, _, options = rest.partition("?")
    _check_secrets(scheme, address, options)
    if scheme == "file":
        if not address.startswith("/"):
            raise InvalidInput(
                f"'file://{address}' is no folder; write file:///FOLDER, or the folder."
            )
        check_path(address, "the folder")
        return SweepPaths(Path(address))
    bucket, _, name = address.strip("/").partition("/")
    if not _BUCKET.fullmatch(bucket.removeprefix(f"{ANONYMOUS}@")) or not name:
        raise InvalidInput(
            f"'{scheme}://{address}' names no place in a bucket; write {scheme}://BUCKET/NAME."
        )
    uri = f"{scheme}://{address.rstrip('/')}" + (f"?{options}" if options else "")
    return SweepPaths(
        _copies() / hashlib.sha256(uri.partition("?")[0].encode()).hexdigest()[:16], uri
    )


def _check_secrets(scheme: str, address: str, options: str) -> None:
    """Addresses are shown and recorded: `InvalidInput` where one holds a secret."""
    user, at, _ = address.partition("/")[0].rpartition("@")
    named = ("secret", "token", "password", "access_key", "account_key", "sas", "signature")
    if (at and user != ANONYMOUS) or any(
        word in name.lower() for name, _ in parse_qsl(options, True) for word in named
    ):
        raise InvalidInput(
            f"the {scheme}:// address holds credentials, which would be shown and recorded. Leave "
            f"them out; they are found in {WHERE.get(scheme, 'the usual places')}."
        )


def _copies() -> Path:
    """`$ORCHESTRATE_CACHE/sweeps`, or `~/.cache/orchestrate/sweeps`: the working copies."""
    named = os.environ.get("ORCHESTRATE_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "orchestrate") / "sweeps"
