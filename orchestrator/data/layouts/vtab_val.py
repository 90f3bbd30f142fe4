"""VTAB folders with train800val200.txt alone: the lists of train and val, as a person chooses.

Nothing in such a folder says which 200 of the 1,000 images are val. The choice is written beside
the lists and noted in the prepared data, whose fingerprint covers the images of both splits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.data.layouts.lists import read_list, read_text
from orchestrator.data.layouts.tree import ListEntry
from orchestrator.errors import DataError, unknown
from orchestrator.spec import Task
from orchestrator.storage.files import write_whole

BOTH, TRAIN, VAL = "train800val200.txt", "train800.txt", "val200.txt"
CHOICE = "val200.choice"
"""Beside the lists: the name of the rule that they were made by."""
_SHARE = 5
_SEED = 0


def _last(entries: Sequence[ListEntry], count: int) -> set[int]:
    return set(range(len(entries) - count, len(entries)))


def _stratified(entries: Sequence[ListEntry], count: int) -> set[int]:
    """Of each class its share of `count`, rounded so that the sum is right; drawn with one seed."""
    sizes = Counter(entry.label for entry in entries)
    exact = {label: size * count / len(entries) for label, size in sizes.items()}
    quota = {label: int(share) for label, share in exact.items()}
    by_rest = sorted(sizes, key=lambda label: (quota[label] - exact[label], label))
    for label in by_rest[: count - sum(quota.values())]:
        quota[label] += 1
    chosen: set[int] = set()
    for index in sorted(range(len(entries)), key=lambda index: _rank(entries[index])):
        label = entries[index].label
        if quota[label]:
            quota[label] -= 1
            chosen.add(index)
    return chosen


def _rank(entry: ListEntry) -> bytes:
    return hashlib.sha256(f"{_SEED} {entry.path}".encode("utf-8", "surrogateescape")).digest()


CHOICES: Mapping[str, tuple[str, Callable[[Sequence[ListEntry], int], set[int]]]] = {
    "last": (f"the last fifth of {BOTH}, as its name suggests", _last),
    "stratified": (f"a fifth of each class of {BOTH}, drawn with seed {_SEED}", _stratified),
}


def split(entries: Sequence[ListEntry], choice: str) -> tuple[list[ListEntry], list[ListEntry]]:
    """Train and val by one of `CHOICES`, both in the order of the list."""
    if choice not in CHOICES:
        raise unknown("choice of val", choice, CHOICES)
    val = CHOICES[choice][1](entries, len(entries) // _SHARE)
    parts = [[e for n, e in enumerate(entries) if (n in val) == wanted] for wanted in (False, True)]
    return parts[0], parts[1]


def write_lists(folder: Path, task: Task, choice: str) -> bool:
    """Write train800.txt and val200.txt into a task's folder; False if it has its own.

    Lists that were made here are made again. `DataError` if the list of both cannot be used, or the
    folder cannot be written.
    """
    own = any((folder / name).exists() for name in (TRAIN, VAL))
    if own and not (folder / CHOICE).exists():
        return False
    problems: list[str] = []
    entries = read_list(folder / BOTH, task.classes, problems)
    if problems:
        raise DataError("\n".join(problems))
    parts = dict(zip((TRAIN, VAL), split(entries, choice), strict=True))
    try:
        write_whole(folder / CHOICE, f"{choice}\n".encode())
        for name, part in parts.items():
            lines = "".join(f"{entry.path} {entry.label}\n" for entry in part)
            write_whole(folder / name, lines.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DataError(
            f"the lists of train and val cannot be written into '{folder}': "
            f"{error.strerror or error}. Make it writable, or use a copy."
        ) from error
    return True


def missing(folder: Path, task: Task, problems: list[str]) -> bool:
    """Whether the folder has the list of both splits alone; then a problem with the two choices."""
    if (folder / TRAIN).exists() or (folder / VAL).exists() or not (folder / BOTH).exists():
        return False
    rules = "; ".join(f"`--val {name}`: {text}" for name, (text, _) in CHOICES.items())
    problems.append(
        f"{folder}: it has {BOTH}, but no {TRAIN} and {VAL}, and nothing says which images are val "
        "(that they are the last ones is not verified). Choose with `orchestrate data split vtab "
        f"--tasks {task.name} --val …`, which writes the two lists. {rules}."
    )
    return True


def chosen(
    folder: Path, task: Task, lists: Mapping[str, Sequence[ListEntry]], problems: list[str]
) -> tuple[str, ...]:
    """A note about the choice that the lists were made by, if they were made here.

    A problem if they are other lists than that choice makes.
    """
    if not (folder / CHOICE).exists():
        return ()
    choice = (read_text(folder / CHOICE, problems) or "").strip()
    both = read_list(folder / BOTH, task.classes, problems)
    if not problems:
        parts = split(both, choice) if choice in CHOICES else ([], [])
        listed = [[entry[1:] for entry in lists[name]] for name in ("train", "val")]
        if [[entry[1:] for entry in part] for part in parts] != listed:
            problems.append(
                f"{folder}: {TRAIN} and {VAL} are not what {CHOICE} ({choice!r:.60}) makes of "
                f"{BOTH}. Make them again with `orchestrate data split vtab --tasks {task.name} "
                f"--val …`, or delete {CHOICE} if they are your own."
            )
            return ()
        return (f"val is {CHOICES[choice][0]} (`--val {choice}`), chosen by hand.",)
    return ()
