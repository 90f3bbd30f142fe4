"""Images in one folder per class, as torchvision's ImageFolder has them.

<split's folder>/<class>/<image>
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.layouts.held_out import hold_out
from orchestrator.data.layouts.lists import UNKNOWN
from orchestrator.data.layouts.tree import Entry, Tree
from orchestrator.data.listing import Listing
from orchestrator.data.prepared.manifest import SPLITS
from orchestrator.spec import Task

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
_CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""What systems leave behind; passed over, as hidden files are."""


@dataclass(frozen=True)
class _Split:
    """Class folders of one split, sorted, each with its images' names, sorted."""

    folder: Path
    images: Mapping[str, Sequence[str]]


def read(
    inside: Path, task: Task, files: Mapping[str, Any], names: tuple[str, ...], problems: list[str]
) -> Listing:
    """`{train: DIR, val: DIR, test: DIR}`. Labels follow `names`, or the sorted class folders."""
    found = {
        split: _look(Path(files[split]), problems)
        for split in SPLITS
        if isinstance(files[split], str)
    }
    classes = names or _classes(found, task, problems)
    if names:
        _check_strangers(found, names, f"the suite names {len(names)} classes", problems)
    entries = {split: _entries(part, classes) for split, part in found.items()}
    if "val" not in entries:
        entries["train"], entries["val"] = hold_out(entries["train"], files["val"])
    trees = {split: Tree(Path(files["train"]), inside) for split in ("train", "val")}
    trees |= {split: Tree(part.folder, inside) for split, part in found.items() if split != "train"}
    items = {split: trees[split].items(entries[split], problems) for split in SPLITS}
    return Listing(items, tuple(problems), tuple(classes))


def _look(folder: Path, problems: list[str]) -> _Split:
    images = {}
    for name, is_folder in _inside(folder, problems):
        if is_folder:
            images[name] = list(_images(folder / name, problems))
        elif name.lower().endswith(SUFFIXES):
            problems.append(f"{folder / name}: this image lies in no class folder.")
    if not any(images.values()) and os.path.isdir(folder):
        problems.append(f"{folder}: it has no image in a folder of a class.")
    return _Split(folder, images)


def _images(folder: Path, problems: list[str]) -> Iterable[str]:
    for name, is_folder in _inside(folder, problems):
        if is_folder:
            problems.append(
                f"{folder / name}: this folder lies in a class folder; put its images directly "
                "into the class folder."
            )
        elif name.lower().endswith(SUFFIXES):
            yield name
        else:
            problems.append(
                f"{folder / name}: this is no image by its name ({', '.join(SUFFIXES)}); "
                "move it elsewhere."
            )


def _inside(folder: Path, problems: list[str]) -> list[tuple[str, bool]]:
    """What is in a folder, sorted by name, and whether it is a folder itself."""
    try:
        with os.scandir(folder) as entries:
            # os.path: a link that leads in a circle is no folder, and no reason to give up.
            found = [(entry.name, os.path.isdir(entry.path)) for entry in entries]
    except OSError as error:
        problems.append(f"{folder}: this folder cannot be read ({error.strerror}).")
        return []
    kept = (row for row in found if not row[0].startswith(".") and row[0] not in _CLUTTER)
    return sorted(kept)


def _classes(found: Mapping[str, _Split], task: Task, problems: list[str]) -> tuple[str, ...]:
    """The names of the class folders of all splits, sorted.

    With more of them than the task has classes, the folders of train are the classes, if their
    number is right.
    """
    every = tuple(sorted({name for part in found.values() for name in part.images}))
    trained = tuple(found["train"].images)
    if len(every) > task.classes == len(trained):
        _check_strangers(found, trained, f"train has the {task.classes} classes", problems)
        return trained
    if len(every) != task.classes and every:
        problems.append(
            f"{found['train'].folder}: the splits have {len(every)} class folders together "
            f"({', '.join(every):.200}); the suite says {task.classes} classes."
        )
    return every


def _check_strangers(
    found: Mapping[str, _Split], classes: Sequence[str], why: str, problems: list[str]
) -> None:
    for part in found.values():
        for name in sorted(set(part.images) - set(classes)):
            problems.append(
                f"{part.folder / name}: this folder is no class; {why}: {', '.join(classes):.200}."
            )


def _entries(part: _Split, classes: Sequence[str]) -> list[Entry]:
    labels = {name: label for label, name in enumerate(classes)}
    return [
        Entry("", f"{name}/{image}", labels.get(name, UNKNOWN))
        for name, images in part.images.items()
        for image in images
    ]
