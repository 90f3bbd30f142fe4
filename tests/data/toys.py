"""A small suite whose data is made by hand, or lies in files, for tests of the store."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.data.listing import FileItem, Listing
from orchestrator.data.prepared.prepare import prepare
from orchestrator.data.prepared.sources import GeneratedSource, ListedSource
from orchestrator.data.prepared.store import Manifest
from orchestrator.spec import Recipe, Suite, Task

TASK = Task("dots", "structured", classes=4, train=12, val=5, test=7)
COUNTS = {"train": 12, "val": 5, "test": 7}
SIDE = 6
SUITE = Suite(
    name="toy",
    tasks=(TASK,),
    backbone="vit_mini",
    recipe=Recipe(),
    default_tasks=("dots",),
    default_adapters=("linear",),
    layout="files",
    side=SIDE,
)
Arrays = dict[str, tuple[Any, Any]]


def made() -> Arrays:
    random = np.random.default_rng(3)
    return {
        name: (
            random.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8),
            random.integers(0, 4, count),
        )
        for name, count in COUNTS.items()
    }


@dataclass(frozen=True)
class Toy(GeneratedSource):
    """Arrays from a call instead of a package."""

    package: str = ""
    uses: tuple[str, ...] = ()
    task: Task = TASK
    make: Callable[[], Arrays] = made
    version: str = "v1"

    def state(self, name: str) -> str:
        return self.version

    @cached_property
    def _arrays(self) -> Mapping[str, tuple[Any, Any]]:
        return self.make()


def stored(root: Path, make: Callable[[], Arrays] = made, **changes: Any) -> Manifest:
    """The toy task prepared from arrays."""
    return prepare(SUITE, TASK, Toy(make=make, **changes), root)


def picture(index: int, size: tuple[int, int] = (11, 9), form: str = "PNG") -> bytes:
    """An encoded picture of random colours."""
    random = np.random.default_rng(index)
    pixels = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def listed(folder: Path, counts: Mapping[str, int] = COUNTS) -> ListedSource:
    """The toy task as picture files of odd sizes, half of them JPEG."""
    splits = {}
    for place, (name, count) in enumerate(counts.items()):
        items = []
        for index in range(count):
            form = ("PNG", "JPEG")[index % 2]
            path = folder / name / f"{index}.{form.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(picture(100 * place + index, (7 + index, 30 - index), form))
            items.append(FileItem(path, index % 4, f"{name}.txt, line {index + 1}"))
        splits[name] = items
    return ListedSource(SUITE, TASK, Listing(splits))
