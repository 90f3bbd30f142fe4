"""All problems of a task's images and lists, found in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.data import Progress
from orchestrator.data.checks import check_task, labels_of
from orchestrator.data.images import ImageError, load, map_ahead
from orchestrator.data.layouts import read_listing
from orchestrator.data.listing import SPLITS, Item
from orchestrator.spec import Suite, Task


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found in a task.

    `counts` is the number of images by split, `classes` the number of different labels by split.
    `fingerprint` is the SHA-256 (hex) over split, label and content of every image, in order,
    independent of paths; empty if an image cannot be read or there is none. `problems` must be
    repaired; `notes` may be intended.
    """

    task: str
    counts: Mapping[str, int]
    classes: Mapping[str, int]
    fingerprint: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class _Image(NamedTuple):
    """An image, SHA-256 of its file (empty if it cannot be read), and what is wrong with it."""

    split: str
    item: Item
    digest: bytes
    problem: str = ""


def verify(suite: Suite, task: Task, root: Path, progress: Progress) -> VerifyReport:
    """Read and decode every image that a task lists, and compare with what the benchmark says.

    Args:
        suite: its layout says how the images lie on disk; `InvalidInput` if it has none.
        task: its classes and counts are compared with what is found.
        root: the suite's folder.
        progress: called with the task's name, the images done and their number.
    """
    listing = read_listing(suite, task, root)
    listed = [(split, item) for split in SPLITS for item in listing.splits[split]]
    images: list[_Image] = []
    for image in map_ahead(lambda pair: _read(*pair), listed):
        images.append(image)
        progress(task.name, len(images), len(listed))
    digests = {name: [image.digest for image in images if image.split == name] for name in SPLITS}
    found = check_task(suite, task, listing, digests)
    unreadable = (image.problem for image in images if image.problem)
    return VerifyReport(
        task=task.name,
        counts={name: len(listing.splits[name]) for name in SPLITS},
        classes={name: len(labels) for name, labels in labels_of(listing, task).items()},
        fingerprint=_fingerprint(images),
        problems=(*listing.problems, *found.deviations, *unreadable, *found.errors),
        notes=found.notes,
    )


def _read(split: str, item: Item) -> _Image:
    try:
        data = item.read()
    except OSError as error:
        why = f"{item.where}: it cannot be read ({error.strerror or error})."
        return _Image(split, item, b"", why)
    digest = hashlib.sha256(data).digest()
    try:
        load(data)
    except ImageError as error:
        return _Image(split, item, digest, f"{item.where}: {error}.")
    return _Image(split, item, digest)


def _fingerprint(images: Sequence[_Image]) -> str:
    if not images or not all(image.digest for image in images):
        return ""
    state = hashlib.sha256()
    for image in images:
        state.update(f"{image.split} {image.item.label} ".encode() + image.digest)
    return state.hexdigest()
