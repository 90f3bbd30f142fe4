"""Prepared tasks opened for training. `SearchData` has no test split and no reference to one."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.images import ImageError, decode, map_ahead
from orchestrator.data.prepared import store
from orchestrator.data.prepared.arrow import Images, Labels, Sizes
from orchestrator.errors import DataError
from orchestrator.spec import DataIdentity, Task, digest, fold_of

Part = tuple[Images, Sizes]
"""Images (n, side, side, 3) and their heights and widths before they were stretched (n, 2)."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, side, side, 3) uint8, read-only, with labels (N,) int64 in [0, classes).

    `images` is a view of the mapped file: all processes of a machine share one copy. `sizes` (N, 2)
    are the heights and widths before the images were stretched to squares; `view` is the part of
    them that an evaluation sees, `whole` or `centre`.
    """

    images: Images
    labels: Labels
    sizes: Sizes
    fingerprint: str
    """SHA-256 (hex) of the content."""
    view: str = "whole"

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Part:
        """Images and sizes of a range."""
        return self.images[start:stop], self.sizes[start:stop]


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A split whose images are decoded when they are read, as a test split is read only once."""

    columns: tuple[Any, ...]
    """Arrow arrays of encoded images, views of the mapped file."""
    labels: Labels
    fingerprint: str
    side: int
    view: str = "whole"
    path: Path = Path("test.arrow")
    """For messages."""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> Part:
        """Images and sizes of a range, decoded on all cores that this process may use."""
        stop = min(stop, len(self))
        images = np.empty((max(0, stop - start), self.side, self.side, 3), np.uint8)
        sizes = np.empty((len(images), 2), np.int32)
        ends = list(accumulate(len(column) for column in self.columns))

        def fill(index: int) -> None:
            batch = bisect.bisect_right(ends, start + index)
            row = start + index - (ends[batch] - len(self.columns[batch]))
            try:
                images[index], sizes[index] = decode(self.columns[batch][row].as_py(), self.side)
            except ImageError as error:  # it could be decoded when the task was prepared
                raise DataError(
                    f"image {start + index} of '{self.path}' cannot be decoded: {error}. Delete "
                    "its folder and run the same command again: it is prepared again."
                ) from error

        for _ in map_ahead(fill, range(len(images))):
            pass
        return images, sizes


@dataclass(frozen=True, eq=False)
class SearchData:
    """What search and replicate trials may see.

    `identity` is the fingerprint of both: the task's `DataIdentity.search`, or that of a fold.
    """

    task: Task
    train: Split
    val: Split
    identity: str

    def fold(self, number: int) -> SearchData:
        """As many images for training and for validation, drawn anew from both together.

        Fold `number` is the same on every machine; its images are copies. An image's place in the
        draw is the hash of (identity, number, index).
        """
        images, labels, sizes = (
            np.concatenate([getattr(self.train, name), getattr(self.val, name)])
            for name in ("images", "labels", "sizes")
        )
        drawn = [digest([self.identity, number, index]) for index in range(len(labels))]
        order = np.array(sorted(range(len(labels)), key=drawn.__getitem__))
        identity = fold_of(self.identity, number)

        def part(name: str, own: Labels) -> Split:
            own = np.sort(own)
            fingerprint = digest([identity, name])
            return Split(images[own], labels[own], sizes[own], fingerprint, self.train.view)

        count = len(self.train)
        train, val = part("train", order[:count]), part("val", order[count:])
        return SearchData(self.task, train, val, identity)


@dataclass(frozen=True, eq=False)
class FinalData:
    """What final trials see. `train` is train, then val, in file order; `test` is read once."""

    task: Task
    train: tuple[Split, ...]
    test: Split | EncodedSplit
    identity: DataIdentity


def open_search(suite: str, task: Task, root: Path) -> SearchData:
    """The prepared task without its test split, whose file is not touched.

    Raises `DataError` if it is not prepared, or its train or val file is damaged.
    """
    folder, manifest = root / suite / task.name, store.manifest_of(suite, task, root)
    train, val = (_pixels(folder, name, manifest) for name in ("train", "val"))
    return SearchData(task, train, val, manifest.identity.search)


def open_final(suite: str, task: Task, root: Path) -> FinalData:
    """The prepared task for a final trial; `DataError` as `open_search`."""
    folder, manifest = root / suite / task.name, store.manifest_of(suite, task, root)
    train, val = (_pixels(folder, name, manifest) for name in ("train", "val"))
    opened = _encoded if manifest.splits["test"].encoded else _pixels
    return FinalData(task, (train, val), opened(folder, "test", manifest), manifest.identity)


def _pixels(folder: Path, name: str, manifest: store.Manifest) -> Split:
    images, labels, sizes = store.load_pixels(folder, name, manifest)
    return Split(images, labels, sizes, manifest.splits[name].fingerprint, manifest.view)


def _encoded(folder: Path, name: str, manifest: store.Manifest) -> EncodedSplit:
    columns, labels = store.load_encoded(folder, name, manifest)
    fingerprint, path = manifest.splits[name].fingerprint, folder / f"{name}.arrow"
    return EncodedSplit(tuple(columns), labels, fingerprint, manifest.side, manifest.view, path)
