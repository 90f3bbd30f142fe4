"""A task's images by split, as its lists name them, before any image is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.data.images import map_ahead
from orchestrator.storage.files import read_file

SPLITS = ("train", "val", "test")


class Item(Protocol):
    """One image as its source lists it."""

    @property
    def where(self) -> str:
        """For messages: the list with its line, and the image."""

    @property
    def label(self) -> int:
        """The class, from 0 on; in a listing with problems, what its list states, or -1."""

    @property
    def identity(self) -> str:
        """Equal for the same image listed twice."""

    def read(self) -> bytes:
        """The encoded image; `OSError` if it cannot be read."""

    def size(self) -> int:
        """About how many bytes the encoded image has."""

    def stamp(self) -> str:
        """Changes when the image's file is replaced; costs one `stat`, the file is not read."""


def stamp_of(path: Path) -> str:
    """A file's size and time of modification."""
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


@dataclass(frozen=True)
class FileItem:
    """An image in a file of its own; `listed` names the list and line that it comes from.

    The path may be text: creating 75,000 `Path` objects takes as long as the rest of a listing.
    """

    path: Path | str
    label: int
    listed: str

    @property
    def where(self) -> str:
        return f"{self.listed}: {self.path}" if self.listed else str(self.path)

    @property
    def identity(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        return read_file(Path(self.path), None)

    def size(self) -> int:
        return Path(self.path).stat().st_size

    def stamp(self) -> str:
        return stamp_of(Path(self.path))


@dataclass(frozen=True)
class Listing:
    """The items of a task by split, and all problems of their lists.

    A problem is a sentence with file and line; a listing that has any must not be prepared.
    """

    splits: Mapping[str, Sequence[Item]]
    problems: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """Names of the classes by label, where the source has them."""
    notes: tuple[str, ...] = ()
    """Sentences about what may be intended, such as files that are left out."""

    @property
    def empty(self) -> bool:
        """Whether it has no image at all."""
        return not any(self.splits.values())

    def state(self, split: str) -> str:
        """SHA-256 (hex) that changes with an image of the split, its label or its position.

        Files are not read: their names, sizes and modification times count.
        """
        items = self.splits[split]
        state = hashlib.sha256(split.encode())
        # Many threads: they wait for a file server, not for the cores.
        stamps = map_ahead(lambda item: item.stamp(), items, threads=16)
        for item, stamp in zip(items, stamps, strict=True):
            name = item.identity.rpartition("/")[2]
            state.update(f"{item.label} {stamp} {name}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()
