"""All problems of a task's images and lists, found in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.data import Progress
from orchestrator.data.images import ImageError, load, map_ahead
from orchestrator.data.layouts import read_listing
from orchestrator.data.listing import SPLITS, Item, Listing
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
    labels = {
        name: {item.label for item in listing.splits[name]} & set(range(task.classes))
        for name in SPLITS
    }
    shared, doubled = _repeats(images)
    return VerifyReport(
        task=task.name,
        counts={name: len(listing.splits[name]) for name in SPLITS},
        classes={name: len(labels[name]) for name in SPLITS},
        fingerprint=_fingerprint(images),
        problems=(
            *listing.problems,
            *_count_problems(listing, task),
            *_class_problems(listing, task, labels),
            *(image.problem for image in images if image.problem),
            *shared,
        ),
        notes=(*doubled, *_untrained_classes(labels)),
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


def _count_problems(listing: Listing, task: Task) -> Iterator[str]:
    for name in SPLITS:
        count, wanted = len(listing.splits[name]), getattr(task, name)
        if wanted is not None and count not in (0, wanted):  # an empty split is a problem already
            yield f"{name} has {count:,} images; the benchmark has {wanted:,}."


def _class_problems(listing: Listing, task: Task, labels: Mapping[str, set[int]]) -> Iterator[str]:
    absent = set(range(task.classes)).difference(*labels.values())
    if absent and any(listing.splits.values()):
        names = ""
        if len(listing.classes) == task.classes:
            names = f" ({', '.join(listing.classes[label] for label in sorted(absent)):.200})"
        yield f"no split has an image of {_classes(absent)}{names}."


def _untrained_classes(labels: Mapping[str, set[int]]) -> Iterator[str]:
    absent = labels["test"] - labels["train"]
    if absent and labels["train"]:
        yield f"test has images of {_classes(absent)}; train has none."


def _repeats(images: Sequence[_Image]) -> tuple[list[str], list[str]]:
    """Problems for equal files in two splits, notes for equal files in one.

    One sentence for each pair of splits, with the first such files.
    """
    seen: dict[bytes, _Image] = {}
    pairs: dict[tuple[str, str], list[tuple[_Image, _Image]]] = {}
    for image in images:
        first = seen.setdefault(image.digest, image)
        if first is not image and image.digest:
            pairs.setdefault((first.split, image.split), []).append((first, image))
    shared: list[str] = []
    doubled: list[str] = []
    for (one, other), found in pairs.items():
        count = "1 image" if len(found) == 1 else f"{len(found):,} images"
        of = "another of the same split" if one == other else f"one of {one}"
        example = " and ".join(image.item.where for image in found[0])
        (doubled if one == other else shared).append(
            f"{count} of {other} have the bytes of {of}, first: {example}."
        )
    return shared, doubled


def _classes(labels: Iterable[int]) -> str:
    """`class 3`, or `classes 0…9, 12`."""
    runs: list[list[int]] = []
    for label in sorted(labels):
        if runs and label == runs[-1][-1] + 1:
            runs[-1][1:] = [label]
        else:
            runs.append([label])
    single = len(runs) == 1 and len(runs[0]) == 1
    shown = ", ".join("…".join(map(str, run)) for run in runs)
    return f"{'class' if single else 'classes'} {shown}"
