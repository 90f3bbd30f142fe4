"""The sub-folder of a sign, on a disk or in an object store. Every trouble is an `OSError`."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.storage.addresses import location
from orchestrator.storage.files import write_whole
from orchestrator.storage.sharing.words import is_uri, said


@dataclass(frozen=True)
class Sign:
    """What the command has left: `content` in the file `sign` of the sub-folder `name` of `place`,
    which is an absolute path or the URI of a place in an object store.
    """

    place: str
    name: str
    content: str


class Folder:
    """On a disk or an NFS share.

    `make` and `remove` are the command's; any machine may `put` and `get`.
    """

    def __init__(self, sign: Sign) -> None:
        self._place = Path(sign.place)
        self.path = self._place / sign.name
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


class Bucket:
    """In an object store, through pyarrow; as `Folder`."""

    def __init__(self, sign: Sign) -> None:
        import pyarrow as pa
        import pyarrow.fs as pafs

        try:
            self._store: Any
            self._store, root = pafs.FileSystem.from_uri(sign.place)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInput(
                f"the address '{location(sign.place)}' cannot be used ({said(error)}). Allowed: a "
                "folder, s3:// or gs://."
            ) from None
        self._path = f"{root.rstrip('/')}/{sign.name}"

    def make(self) -> None:
        """Nothing: the first file makes it."""

    def put(self, name: str, data: bytes) -> None:
        with self._store.open_output_stream(f"{self._path}/{name}") as stream:
            stream.write(data)

    def get(self, name: str) -> bytes:
        with self._store.open_input_stream(f"{self._path}/{name}") as stream:
            return bytes(stream.readall())

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # it was not written, or the store is gone: said by then
            self._store.delete_dir(self._path)


def spot(sign: Sign) -> Folder | Bucket:
    """Where a sign is; `InvalidInput` for an address that is none."""
    if sign.place.startswith("file://"):
        local = sign.place.removeprefix("file://")
        return Folder(Sign(local, sign.name, sign.content))
    return Bucket(sign) if is_uri(sign.place) else Folder(sign)
