"""What a task is prepared from: images that lists name, or arrays that a package generates."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from orchestrator.data.checks import Findings, check_task
from orchestrator.data.images import ImageError, decode, load, map_ahead
from orchestrator.data.layouts import read_listing
from orchestrator.data.listing import SPLITS, Item, Listing
from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.store import SplitRecord
from orchestrator.errors import DataError
from orchestrator.spec import Suite, Task

T = TypeVar("T")
Tick = Callable[[], None]
"""Called after every image."""
SHOWN = 20
"""Problems that a message lists at most; `orchestrate data verify` lists all."""


@dataclass(frozen=True)
class ListedSource:
    """Images in files. Train and val are decoded once. Test images are kept encoded, since all of
    VTAB's at 224 × 224 would take 58 GB; each is decoded here as well, to see that it can be.
    """

    suite: Suite
    task: Task
    listing: Listing
    _states: dict[str, str] = field(default_factory=dict, init=False, compare=False)
    _digests: dict[str, list[bytes]] = field(default_factory=dict, init=False, compare=False)

    def state(self, name: str) -> str:
        """Changes when the split does. Computed once: it needs a `stat` of every image."""
        if name not in self._states:
            self._states[name] = self.listing.state(name)
        return self._states[name]

    def names(self) -> tuple[str, ...]:
        """Names of the classes by label, if there are any."""
        return self.listing.classes

    def count(self) -> int:
        """Images in all splits."""
        return sum(map(len, self.listing.splits.values()))

    def size(self, name: str) -> int:
        """About how many bytes the split's file will have."""
        items = self.listing.splits[name]
        if name == "test":
            return sum(item.size() + 24 for item in items)
        return len(items) * (self.suite.side**2 * 3 + 24)

    def write(self, name: str, path: Path, problems: list[str], tick: Tick) -> SplitRecord | None:
        """Write a split to a new file; None, with problems, if an image cannot be used."""
        items, side, classes = self.listing.splits[name], self.suite.side, self.task.classes
        labels = np.array([item.label for item in items], np.int64)
        before = len(problems)
        digests: list[bytes] = []
        self._digests[name] = digests
        if name == "test":
            files = _read_all(items, _checked_bytes, digests, problems, tick)
            arrow.write_encoded(path, (data or b"" for data in files), labels, side, classes)
        else:
            with arrow.filling(path, labels, side, classes) as put:
                images = _read_all(items, lambda data: decode(data, side), digests, problems, tick)
                for index, image in enumerate(images):
                    if image is not None:
                        put(index, *image)
        if len(problems) > before:
            return None
        return _record(path, classes, len(items), encoded=name == "test")

    def check(self) -> Findings:
        """What all splits together must be. Reads the images of splits that were not written here:
        an earlier command or another task did.
        """
        for name in SPLITS:
            if name not in self._digests:
                items = self.listing.splits[name]
                self._digests[name] = list(map_ahead(_digest_of, items))
        return check_task(self.suite, self.task, self.listing, self._digests)


@dataclass(frozen=True)
class GeneratedSource:
    """`package.make(task name)` returns the splits; `uses` are the distributions it depends on."""

    package: str
    uses: tuple[str, ...]
    task: Task

    def state(self, name: str) -> str:
        """Changes with the package's code and the versions of what it uses."""
        found = find_spec(self.package)
        assert found is not None and found.submodule_search_locations is not None
        digest = hashlib.sha256(f"{self.task.name} {name}".encode())
        for folder in found.submodule_search_locations:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
        for used in self.uses:
            digest.update(f"{used} {version(used)}".encode())
        return digest.hexdigest()

    def names(self) -> tuple[str, ...]:
        return ()

    def count(self) -> int:
        return sum(len(labels) for _, labels in self._arrays.values())

    def size(self, name: str) -> int:
        return int(self._checked(name)[0].nbytes)

    def check(self) -> Findings:
        return Findings()

    def write(self, name: str, path: Path, problems: list[str], tick: Tick) -> SplitRecord | None:
        """Write a split to a new file; `DataError` if its arrays are not what the task says."""
        images, labels = self._checked(name)
        side, classes = images.shape[1], self.task.classes
        with arrow.filling(path, labels, side, classes) as put:
            for index, image in enumerate(images):
                put(index, image, (side, side))
                tick()
        return _record(path, classes, len(images))

    @cached_property
    def _arrays(self) -> Mapping[str, tuple[Any, Any]]:
        splits: Mapping[str, tuple[Any, Any]] = importlib.import_module(self.package).make(
            self.task.name
        )
        return splits

    def _checked(self, name: str) -> tuple[arrow.Images, arrow.Labels]:
        """The split's images and labels; `DataError` if they are not what the task says."""
        what = f"the {name} split of task '{self.task.name}'"
        if name not in self._arrays:
            raise DataError(f"{what} is missing; there are {', '.join(self._arrays) or 'none'}.")
        images, labels = map(np.asarray, self._arrays[name])
        square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
        if images.dtype != np.uint8 or not square:
            raise DataError(
                f"{what} has images {images.shape} {images.dtype}; allowed: (N, side, side, 3) "
                "uint8."
            )
        count = getattr(self.task, name)
        if len(images) != count or labels.shape != (count,):
            raise DataError(
                f"{what} has {len(images)} images and labels {labels.shape}; the suite says "
                f"{count}."
            )
        whole = np.issubdtype(labels.dtype, np.integer)
        if not whole or not np.isin(labels, range(self.task.classes)).all():
            raise DataError(
                f"{what} has labels that are not integers in 0…{self.task.classes - 1}."
            )
        return images, labels.astype(np.int64)


Source = ListedSource | GeneratedSource


def find_source(suite: Suite, task: Task, raw: Path | None) -> Source | None:
    """What a task can be prepared from; `DataError` if its lists are wrong.

    `raw` is the suite's folder of images. None without one, where the suite needs it.
    """
    if suite.layout == "mini":
        return GeneratedSource("orchestrator.data.mini", ("numpy", "scikit-learn"), task)
    if raw is None and suite.variable:
        return None
    return ListedSource(suite, task, read_listing(suite, task, raw or Path()))


def problem_report(what: str, problems: Sequence[str]) -> str:
    """The message for a task that cannot be prepared."""
    shown = "\n  ".join(problems[:SHOWN])
    more = len(problems) - SHOWN
    rest = f"\n  and {more} more: `orchestrate data verify` lists all" if more > 0 else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"the data of '{what}' cannot be used, {count}:\n  {shown}{rest}"


def _record(path: Path, classes: int, images: int, encoded: bool = False) -> SplitRecord:
    """The record of a file that was just written."""
    if encoded:
        fingerprint = arrow.encoded_fingerprint(*arrow.read_encoded(path, classes))
    else:
        fingerprint = arrow.fingerprint(*arrow.read_pixels(path, classes))
    return SplitRecord(images, path.stat().st_size, fingerprint, encoded)


def _read_all(
    items: Sequence[Item],
    read: Callable[[bytes], T],
    digests: list[bytes],
    problems: list[str],
    tick: Tick,
) -> Iterator[T | None]:
    """`read(bytes)` of every item, in order; None, and a problem, where an image is bad.

    Adds to `digests` the SHA-256 of every file, empty where an image is bad.
    """

    def attempt(item: Item) -> tuple[T | None, bytes, str]:
        try:
            data = item.read()
            return read(data), hashlib.sha256(data).digest(), ""
        except ImageError as error:
            return None, b"", f"{item.where}: {error}"
        except OSError as error:
            return None, b"", f"{item.where}: {error.strerror or error}"

    for result, digest, problem in map_ahead(attempt, items):
        digests.append(digest)
        if problem:
            problems.append(problem)
        yield result
        tick()


def _digest_of(item: Item) -> bytes:
    return hashlib.sha256(item.read()).digest()


def _checked_bytes(data: bytes) -> bytes:
    """The same bytes; `ImageError` if they are not a whole image."""
    load(data)
    return data
