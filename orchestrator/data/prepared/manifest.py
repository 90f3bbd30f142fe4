"""The manifest of a prepared task: written last, so a folder that has one is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.prepared import arrow
from orchestrator.spec import VIEWS, DataIdentity, Suite, Task, digest
from orchestrator.storage.files import write_whole

NAME = "manifest.json"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitRecord:
    """What `<split>.arrow` must be: `images` in number, its size in `bytes`, its fingerprint.

    `encoded` images are decoded when they are read. `state` is that of what it was made of.
    """

    images: int
    bytes: int
    fingerprint: str
    encoded: bool = False
    state: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.images, int) and isinstance(self.bytes, int)):
            raise TypeError("images and bytes are numbers")


@dataclass(frozen=True)
class Manifest:
    """A prepared task. `source` is the state of what it was made of: another one means that it is
    made again. `side` and `view` as in `Suite`.
    """

    version: str
    source: str
    classes: int
    side: int
    view: str
    splits: Mapping[str, SplitRecord]
    names: tuple[str, ...] = ()
    """Names of the classes by label, where the source has them."""

    @property
    def identity(self) -> DataIdentity:
        """Fingerprints of what search may see and of the test split."""
        train, val, test = (self.splits[name].fingerprint for name in SPLITS)
        common = [self.classes, self.side, self.view]
        return DataIdentity(digest([*common, train, val]), digest([*common, test]))

    @property
    def counts(self) -> dict[str, int]:
        """Images by split."""
        return {name: self.splits[name].images for name in SPLITS}

    def fits(self, task: Task, suite: Suite | None = None) -> bool:
        """Whether this format holds that task, prepared as the suite wants it."""
        wanted = (arrow.VERSION, task.classes)
        same = suite is None or (suite.side, suite.view) == (self.side, self.view)
        return same and (self.version, self.classes) == wanted

    def write(self, folder: Path) -> None:
        """Write it into `folder`, through to the disk."""
        text = json.dumps({**asdict(self), "identity": asdict(self.identity)}, indent=1)
        write_whole(folder / NAME, text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a complete folder; None when there is none that makes sense."""
        try:
            content = json.loads((folder / NAME).read_bytes())
            manifest = cls._from(content)
            return manifest if asdict(manifest.identity) == content["identity"] else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    @classmethod
    def _from(cls, content: Mapping[str, Any]) -> Manifest:
        splits = {name: SplitRecord(**content["splits"][name]) for name in SPLITS}
        if content["view"] not in VIEWS:
            raise ValueError(content["view"])
        names = ("version", "source", "classes", "side", "view")
        known = {name: content[name] for name in names}
        return cls(**known, splits=splits, names=tuple(content["names"]))
