"""The manifest of a prepared task: written last, so a folder that has one is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.data import arrow
from orchestrator.files import write_whole
from orchestrator.spec import DataIdentity, Task, digest

NAME = "manifest.json"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitRecord:
    """What `<split>.arrow` must be: `images` in number, its size in `bytes`, its fingerprint."""

    images: int
    bytes: int
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """A prepared task. `source` names what made it: another source means it is made again."""

    version: str
    source: str
    classes: int
    splits: Mapping[str, SplitRecord]

    @property
    def identity(self) -> DataIdentity:
        """Fingerprints of what search may see and of the test split."""
        train, val, test = (self.splits[name].fingerprint for name in SPLITS)
        search = digest([self.classes, train, val])
        return DataIdentity(search=search, test=digest([self.classes, test]))

    def fits(self, task: Task) -> bool:
        """Whether this format holds that task with its classes and counts."""
        counts = tuple(self.splits[name].images for name in SPLITS)
        wanted = (task.train, task.val, task.test)
        return (self.version, self.classes, counts) == (arrow.VERSION, task.classes, wanted)

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
        splits = {name: SplitRecord(**record) for name, record in content["splits"].items()}
        return cls(content["version"], content["source"], content["classes"], splits)
