"""The test firewall: search is handed an object that has no test split and no way to one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.data import store
from orchestrator.data.arrow import Images, Labels
from orchestrator.data.manifest import SPLITS, Manifest
from orchestrator.spec import DataIdentity, Task


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, H, W, 3) uint8, read-only, with labels (N,) int64 in [0, classes)."""

    images: Images
    labels: Labels
    fingerprint: str
    """SHA-256 (hex) of the content; of a concatenation, those of its parts joined by '+'."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class SearchData:
    """What search and replicate trials may see. `identity` is the task's `DataIdentity.search`."""

    task: Task
    train: Split
    val: Split
    identity: str


@dataclass(frozen=True, eq=False)
class FinalData:
    """What final trials see: `train` is train then val, in file order; `test` is read once."""

    task: Task
    train: Split
    test: Split
    identity: DataIdentity


def open_search(suite: str, task: Task, root: Path) -> SearchData:
    """The prepared task without its test split, whose file is not even looked at.

    Raises `DataError` if it is not prepared, or its train or val file is damaged.
    """
    manifest = store.manifest_of(suite, task, root)
    train, val = (_split(root / suite / task.name, name, manifest) for name in ("train", "val"))
    return SearchData(task, train, val, manifest.identity.search)


def open_final(suite: str, task: Task, root: Path) -> FinalData:
    """The prepared task for a final trial; `DataError` as `open_search`."""
    manifest = store.manifest_of(suite, task, root)
    train, val, test = (_split(root / suite / task.name, name, manifest) for name in SPLITS)
    return FinalData(task, _joined(train, val), test, manifest.identity)


def _split(folder: Path, name: str, manifest: Manifest) -> Split:
    images, labels = store.load(folder, name, manifest)
    labels.flags.writeable = False
    return Split(images, labels, manifest.splits[name].fingerprint)


def _joined(first: Split, second: Split) -> Split:
    images = np.concatenate((first.images, second.images))
    labels = np.concatenate((first.labels, second.labels))
    images.flags.writeable = labels.flags.writeable = False
    return Split(images, labels, f"{first.fingerprint}+{second.fingerprint}")
