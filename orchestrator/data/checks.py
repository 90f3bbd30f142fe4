"""What a task's images must be as a whole: one set of checks, of `verify` and of preparation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from orchestrator.data.listing import SPLITS, Item, Listing
from orchestrator.spec import Suite, Task
from orchestrator.tasks.suites import REPEATED_IN_THE_ORIGINAL

Digests = Mapping[str, Sequence[bytes]]
"""For every image of each split the SHA-256 of its file; empty where it cannot be read."""


class Findings(NamedTuple):
    """What the checks found, in sentences.

    A task with `errors` is refused everywhere. `deviations` are those of a copy of a published
    benchmark that has other numbers of images: `verify` refuses it, a sweep says so and goes on.
    `notes` may be intended.
    """

    errors: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_task(suite: Suite, task: Task, listing: Listing, digests: Digests) -> Findings:
    """Numbers of images, classes, and equal files; the listing's own problems are not repeated."""
    labels = labels_of(listing, task)
    counts = list(_count_problems(suite, task, listing))
    absent = list(_absent_classes(listing, task, labels))
    single = [] if listing.problems else list(_single_class(listing, labels))
    shared, doubled = _repeats(listing, digests)
    notes = [*listing.notes, *doubled, *_untrained_classes(labels)]
    if task.name in REPEATED_IN_THE_ORIGINAL.get(suite.name, ()):
        notes += [f"{text} So it is in the original." for text in shared]
        shared = []
    else:
        shared = [f"{text} Take them out of one of the two." for text in shared]
    if not suite.variable or not (counts or None in _wanted(task).values()):
        return Findings((*counts, *absent, *single, *shared), (), tuple(notes))
    return Findings((*single, *shared), (*counts, *absent), tuple(notes))


def labels_of(listing: Listing, task: Task) -> dict[str, set[int]]:
    """The different labels of each split, without those that are no class of the task."""
    allowed = set(range(task.classes))
    return {name: {item.label for item in listing.splits[name]} & allowed for name in SPLITS}


def _wanted(task: Task) -> dict[str, int | None]:
    return {"train": task.train, "val": task.val, "test": task.test}


def _count_problems(suite: Suite, task: Task, listing: Listing) -> Iterator[str]:
    who = "the benchmark has" if suite.variable else "the suite says"
    for name, wanted in _wanted(task).items():
        count = len(listing.splits[name])
        if wanted is not None and count not in (0, wanted):  # an empty split is a problem already
            yield f"{name} has {count:,} images; {who} {wanted:,}."


def _absent_classes(listing: Listing, task: Task, labels: Mapping[str, set[int]]) -> Iterator[str]:
    absent = set(range(task.classes)).difference(*labels.values())
    if absent and any(listing.splits.values()):
        names = ""
        if len(listing.classes) == task.classes:
            names = f" ({', '.join(listing.classes[label] for label in sorted(absent)):.200})"
        yield f"no split has an image of {_classes(absent)}{names}."


def _single_class(listing: Listing, labels: Mapping[str, set[int]]) -> Iterator[str]:
    """On a split of one class an accuracy says nothing, and nothing can be learnt from one."""
    for name, found in labels.items():
        if len(found) == 1:
            yield (
                f"{name} has images of one class only ({_classes(found)}), "
                f"{len(listing.splits[name]):,} in all; it needs two classes or more."
            )


def _untrained_classes(labels: Mapping[str, set[int]]) -> Iterator[str]:
    absent = labels["test"] - labels["train"]
    if absent and labels["train"]:
        yield f"test has images of {_classes(absent)}; train has none."


def _repeats(listing: Listing, digests: Digests) -> tuple[list[str], list[str]]:
    """Sentences about equal files in two splits, and about equal files in one.

    One for each pair of splits, with the first such files.
    """
    seen: dict[bytes, tuple[str, Item]] = {}
    pairs: dict[tuple[str, str], list[tuple[Item, Item]]] = {}
    for split in SPLITS:
        for item, digest in zip(listing.splits[split], digests[split], strict=True):
            if digest:
                where, first = seen.setdefault(digest, (split, item))
                if first is not item:
                    pairs.setdefault((where, split), []).append((first, item))
    shared: list[str] = []
    doubled: list[str] = []
    for (one, other), found in pairs.items():
        count = "1 image" if len(found) == 1 else f"{len(found):,} images"
        of = "another of the same split" if one == other else f"one of {one}"
        example = " and ".join(item.where for item in found[0])
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
