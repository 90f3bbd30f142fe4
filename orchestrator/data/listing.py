"""What a suite's folder says is in a task: its images by split, before any of them is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Items = Sequence["Item"]
_LOOKS = 16


class Item(Protocol):
    """One image as its source lists it."""

    @property
    def where(self) -> str:
        """For people: the list with its line, and the image."""

    @property
    def label(self) -> int:
        """The class, from 0 on; of a listing with problems, whatever its list states, or -1."""

    @property
    def identity(self) -> str:
        """Equal for the same image listed twice."""

    def read(self) -> bytes:
        """The encoded image; `OSError` if it cannot be had."""

    def size(self) -> int:
        """About how many bytes the encoded image has."""

    def stamp(self) -> str:
        """Changes when the image's file is replaced, at the price of a look at its entry."""


@dataclass(frozen=True)
class FileItem:
    """An image in a file of its own; `listed` names the list and line that it comes from.

    The path may be text: 75,000 `Path` objects take as long as all the rest of a listing.
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
        return Path(self.path).read_bytes()

    def size(self) -> int:
        return Path(self.path).stat().st_size

    def stamp(self) -> str:
        state = Path(self.path).stat()
        return f"{state.st_size} {state.st_mtime_ns}"


@dataclass(frozen=True)
class Listing:
    """The splits (train, val, test) of a task, and everything that is wrong with their lists.

    A problem is a sentence with file and line; a listing that has any must not be prepared.
    """

    splits: Mapping[str, Items]
    problems: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """Names of the classes by label, where the source has them."""

    @property
    def empty(self) -> bool:
        """Whether not one image is there."""
        return not any(self.splits.values())

    def state(self, split: str) -> str:
        """Changes when an image of the split, its label or its place in the order changes.

        Files are looked at, not read: their names, sizes and times.
        """
        items = self.splits[split]
        state = hashlib.sha256(split.encode())
        with ThreadPoolExecutor(_LOOKS) as pool:  # a file server takes its time for each
            for item, stamp in zip(items, pool.map(_stamp, items, chunksize=256), strict=True):
                name = item.identity.rpartition("/")[2]
                state.update(f"{item.label} {stamp} {name}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()


def _stamp(item: Item) -> str:
    return item.stamp()
