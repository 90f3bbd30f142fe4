"""What a prepared task is made of: images that files list, or arrays that a package makes."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from orchestrator.data.images import decode, load
from orchestrator.data.listing import Items, Listing
from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.ahead import ahead
from orchestrator.data.prepared.manifest import SplitRecord
from orchestrator.errors import DataError
from orchestrator.spec import Suite, Task

Tick = Callable[[], None]
"""Called for every image that is done."""
SHOWN = 20
"""So many problems a message lists; `orchestrate data verify` lists all."""


class Origin(Protocol):
    """What `prepare` asks of a task's origin."""

    def state(self, name: str) -> str:
        """Changes with what the split is made of."""

    def names(self) -> tuple[str, ...]:
        """Names of the classes by label, if there are any."""

    def count(self) -> int:
        """Images in all splits."""

    def size(self, name: str) -> int:
        """About how many bytes the split's file will have."""

    def write(self, name: str, path: Path, tick: Tick) -> SplitRecord:
        """Writes a split to a new file; `DataError` if its images are not what the task says."""


@dataclass(frozen=True)
class Listed:
    """Images in files. Train and val are decoded once. Test images are kept encoded, since all of
    VTAB's at 224 × 224 would take 58 GB; each is decoded now as well, to see that it can be.
    """

    suite: Suite
    task: Task
    listing: Listing
    _states: dict[str, str] = field(default_factory=dict, init=False, compare=False)

    def state(self, name: str) -> str:
        """As the listing's, looked at once: a file server takes its time."""
        if name not in self._states:
            self._states[name] = self.listing.state(name)
        return self._states[name]

    def names(self) -> tuple[str, ...]:
        return self.listing.classes

    def count(self) -> int:
        return sum(map(len, self.listing.splits.values()))

    def size(self, name: str) -> int:
        items = self.listing.splits[name]
        if name == "test":
            return sum(item.size() + 24 for item in items)
        return len(items) * (self.suite.side**2 * 3 + 24)

    def write(self, name: str, path: Path, tick: Tick) -> SplitRecord:
        items = self.listing.splits[name]
        labels = np.array([item.label for item in items], np.int64)
        problems: list[str] = []
        (self._encoded if name == "test" else self._pixels)(path, items, labels, problems, tick)
        if problems:
            raise DataError(report(f"{self.suite.name}/{self.task.name}", problems))
        classes = self.task.classes
        if name == "test":
            fingerprint = arrow.encoded_fingerprint(*arrow.read_encoded(path, classes))
        else:
            images, labels, sizes = arrow.read_pixels(path, classes)
            fingerprint = arrow.fingerprint(images, labels, sizes)
        return SplitRecord(len(items), path.stat().st_size, fingerprint, name == "test")

    def _pixels(
        self, path: Path, items: Items, labels: arrow.Labels, problems: list[str], tick: Tick
    ) -> None:
        side = self.suite.side
        with arrow.filling(path, labels, side, self.task.classes) as put:
            found = ahead(items, lambda data: decode(data, side), problems)
            for index, image in enumerate(found):
                if image is not None:
                    put(index, *image)
                tick()

    def _encoded(
        self, path: Path, items: Items, labels: arrow.Labels, problems: list[str], tick: Tick
    ) -> None:
        def files() -> Iterator[bytes]:
            for data in ahead(items, _whole, problems):
                tick()
                yield data or b""

        arrow.write_encoded(path, files(), labels, self.suite.side, self.task.classes)


@dataclass(frozen=True)
class Made:
    """`package.make(task name)` gives the splits, with the help of the distributions in `uses`."""

    package: str
    uses: tuple[str, ...]
    task: Task

    def state(self, name: str) -> str:
        """Changes with the package's code and the versions it uses."""
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

    def write(self, name: str, path: Path, tick: Tick) -> SplitRecord:
        images, labels = self._checked(name)
        sizes = np.full((len(images), 2), images.shape[1], np.int32)
        arrow.write_pixels(path, images, labels, sizes, self.task.classes)
        for _ in labels:
            tick()
        fingerprint = arrow.fingerprint(images, labels, sizes)
        return SplitRecord(len(images), path.stat().st_size, fingerprint)

    @cached_property
    def _arrays(self) -> Mapping[str, tuple[Any, Any]]:
        made: Mapping[str, tuple[Any, Any]] = importlib.import_module(self.package).make(
            self.task.name
        )
        return made

    def _checked(self, name: str) -> tuple[arrow.Images, arrow.Labels]:
        """A split as the task promises it; a mistake of its maker ends here."""
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


def report(what: str, problems: Sequence[str]) -> str:
    """The message for a task that cannot be prepared."""
    shown = "\n  ".join(problems[:SHOWN])
    more = len(problems) - SHOWN
    rest = f"\n  and {more} more: `orchestrate data verify` lists all" if more > 0 else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"the data of '{what}' cannot be used, {count}:\n  {shown}{rest}"


def _whole(data: bytes) -> bytes:
    """The same bytes, if they are a whole image."""
    load(data)
    return data
