"""All problems of a task's images and lists, found in one pass."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.images import ImageError, load, map_ahead
from orchestrator.data.layouts import LAYOUTS
from orchestrator.data.listing import SPLITS, Item, Listing
from orchestrator.errors import unknown
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


@dataclass(frozen=True)
class _Content:
    """SHA-256 of an image's file, empty if it cannot be read, and what is wrong with it."""

    digest: bytes
    problem: str = ""


def verify(
    suite: Suite,
    task: Task,
    root: Path,
    tick: Callable[[int, int], None],
    threads: int | None = None,
) -> VerifyReport:
    """Read and decode every image that a task lists, and compare with what the benchmark says.

    Args:
        suite: its layout says how the images lie on disk; `InvalidInput` if it has none.
        task: its classes and counts are compared with what is found.
        root: the suite's folder.
        tick: called with the images done and their number.
        threads: how many images are decoded at once; by default one for each core.
    """
    if suite.layout not in LAYOUTS:
        raise unknown(f"layout of suite '{suite.name}'", suite.layout, LAYOUTS)
    listing = LAYOUTS[suite.layout](root, task, suite.files.get(task.name, {}))
    items = [item for name in SPLITS for item in listing.splits[name]]
    contents = []
    for content in map_ahead(_content, items, threads):
        contents.append(content)
        tick(len(contents), len(items))
    labels = _labels(listing, task)
    shared, doubled = _repeats(listing, contents)
    return VerifyReport(
        task=task.name,
        counts={name: len(listing.splits[name]) for name in SPLITS},
        classes={name: len(labels[name]) for name in SPLITS},
        fingerprint=_fingerprint(listing, contents),
        problems=(
            *listing.problems,
            *_count_problems(listing, task),
            *_class_problems(listing, task, labels),
            *(content.problem for content in contents if content.problem),
            *shared,
        ),
        notes=(*doubled, *_untrained_classes(labels)),
    )


def _content(item: Item) -> _Content:
    try:
        data = item.read()
    except OSError as error:
        return _Content(b"", f"{item.where}: it cannot be read ({error.strerror or error}).")
    digest = hashlib.sha256(data).digest()
    try:
        load(data)
    except ImageError as error:
        return _Content(digest, f"{item.where}: {error}.")
    return _Content(digest)


def _fingerprint(listing: Listing, contents: Sequence[_Content]) -> str:
    if not contents or not all(content.digest for content in contents):
        return ""
    state, digests = hashlib.sha256(), iter(contents)
    for name in SPLITS:
        for item in listing.splits[name]:
            state.update(f"{name} {item.label} ".encode() + next(digests).digest)
    return state.hexdigest()


def _labels(listing: Listing, task: Task) -> dict[str, set[int]]:
    """The labels of each split that are the task's."""
    return {
        name: {item.label for item in listing.splits[name]} & set(range(task.classes))
        for name in SPLITS
    }


def _count_problems(listing: Listing, task: Task) -> Iterator[str]:
    for name in SPLITS:
        count, wanted = len(listing.splits[name]), getattr(task, name)
        if wanted is not None and count not in (0, wanted):  # an empty split is a problem already
            yield f"{name} has {count:,} images; the benchmark has {wanted:,}."


def _class_problems(listing: Listing, task: Task, labels: Mapping[str, set[int]]) -> Iterator[str]:
    absent = set(range(task.classes)).difference(*labels.values())
    if absent and any(listing.splits.values()):
        names = "" if len(listing.classes) != task.classes else _names(listing, absent)
        yield f"no split has an image of {_classes(absent)}{names}."


def _names(listing: Listing, absent: set[int]) -> str:
    return f" ({', '.join(listing.classes[label] for label in sorted(absent)):.200})"


def _untrained_classes(labels: Mapping[str, set[int]]) -> Iterator[str]:
    absent = labels["test"] - labels["train"]
    if absent and labels["train"]:
        yield f"test has images of {_classes(absent)}; train has none."


def _repeats(
    listing: Listing, contents: Sequence[_Content]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Problems for equal files in two splits, notes for equal files in one.

    One sentence for each pair of splits, with the first such files.
    """
    seen: dict[bytes, tuple[str, str]] = {}
    pairs: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    digests = iter(contents)
    for name in SPLITS:
        for item in listing.splits[name]:
            digest = next(digests).digest
            if digest in seen:
                split, first = seen[digest]
                pairs[split, name] += 1
                examples.setdefault((split, name), f"{first} and {item.where}")
            elif digest:
                seen[digest] = (name, item.where)
    shared = (_repeat(p, n, examples[p]) for p, n in pairs.items() if p[0] != p[1])
    doubled = (_repeat(p, n, examples[p]) for p, n in pairs.items() if p[0] == p[1])
    return tuple(shared), tuple(doubled)


def _repeat(pair: tuple[str, str], count: int, example: str) -> str:
    first, second = pair
    images = "1 image" if count == 1 else f"{count:,} images"
    of = "another of the same split" if first == second else f"one of {first}"
    return f"{images} of {second} have the bytes of {of}, first: {example}."


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
