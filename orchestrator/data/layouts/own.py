"""A user's own suite: for each task its YAML file names folders, lists or Parquet files.

`files` of a task has one of `folders`, `lists`, `parquet` (with absolute paths), `classes` if the
classes have names, and `inside`, the YAML file's folder. `val` is a path, or the share of train
that is held out as val.

folders    <split's folder>/<class>/<image>, as torchvision's ImageFolder has them
lists      lines `relative/path label`, relative to `root`
parquet    see `parquet.py`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.layouts import parquet
from orchestrator.data.layouts.lists import UNKNOWN, hold_out, make_listing, read_list
from orchestrator.data.layouts.tree import FileTree, ListEntry
from orchestrator.data.listing import SPLITS, Listing
from orchestrator.spec import Task

_Form = Callable[[Path, Task, Mapping[str, Any], tuple[str, ...], list[str]], Listing]
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
_IGNORED = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""Files that operating systems leave behind: ignored, like hidden files."""


def read_own(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
    """The listing of a task. Links may lead into the YAML file's folder; `root` is not used."""
    problems: list[str] = []
    form = next(form for form in _FORMS if form in files)
    _check_paths(files[form], problems)
    names = tuple(files.get("classes", ()))
    return _FORMS[form](Path(files["inside"]), task, files[form], names, problems)


def _check_paths(files: Mapping[str, Any], problems: list[str]) -> None:
    """A problem for two splits that are one and the same file or folder."""
    seen: dict[str, str] = {}
    for split in SPLITS:
        if isinstance(files[split], str):
            first = seen.setdefault(os.path.realpath(files[split]), split)
            if first != split:
                problems.append(f"{files[split]}: it is named as both {first} and {split}.")


def _read_lists(
    inside: Path, task: Task, files: Mapping[str, Any], names: tuple[str, ...], problems: list[str]
) -> Listing:
    """`{root: DIR, train: FILE, val: FILE, test: FILE}`, lines `relative/path label`."""
    entries: dict[str, list[ListEntry]] = {}
    for split in SPLITS:
        if split == "val" and not isinstance(files["val"], str):
            entries["train"], entries["val"] = hold_out(entries["train"], files["val"])
        else:
            entries[split] = read_list(Path(files[split]), task.classes, problems)
    return make_listing(FileTree(Path(files["root"]), inside), entries, problems, names)


@dataclass(frozen=True)
class _ClassFolders:
    """Class folders of one split, sorted, each with its images' names, sorted."""

    folder: Path
    images: Mapping[str, Sequence[str]]


def _read_folders(
    inside: Path, task: Task, files: Mapping[str, Any], names: tuple[str, ...], problems: list[str]
) -> Listing:
    """`{train: DIR, val: DIR, test: DIR}`. Labels follow `names`, or the sorted class folders."""
    found = {
        split: _scan(Path(files[split]), problems)
        for split in SPLITS
        if isinstance(files[split], str)
    }
    classes = names or _classes(found, task, problems)
    if names:
        _check_class_folders(found, names, f"the suite names {len(names)} classes", problems)
    entries = {split: _list_entries(part, classes) for split, part in found.items()}
    if "val" not in entries:
        entries["train"], entries["val"] = hold_out(entries["train"], files["val"])
    items = {}
    for split in SPLITS:  # a val that is held out lies in train's folder
        tree = FileTree(found.get(split, found["train"]).folder, inside)
        items[split] = tree.items(entries[split], problems)
    return Listing(items, tuple(problems), tuple(classes))


def _scan(folder: Path, problems: list[str]) -> _ClassFolders:
    images = {}
    for name, is_folder in _content_of(folder, problems):
        if is_folder:
            images[name] = list(_images(folder / name, problems))
        elif name.lower().endswith(SUFFIXES):
            problems.append(f"{folder / name}: this image lies in no class folder.")
    if not any(images.values()) and os.path.isdir(folder):
        problems.append(f"{folder}: it has no image in a folder of a class.")
    return _ClassFolders(folder, images)


def _images(folder: Path, problems: list[str]) -> Iterable[str]:
    for name, is_folder in _content_of(folder, problems):
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


def _content_of(folder: Path, problems: list[str]) -> list[tuple[str, bool]]:
    """What is in a folder, sorted by name, and whether it is a folder itself."""
    try:
        with os.scandir(folder) as entries:
            # os.path: a circular link is then no folder and raises no error.
            found = [(entry.name, os.path.isdir(entry.path)) for entry in entries]
    except OSError as error:
        problems.append(f"{folder}: this folder cannot be read ({error.strerror}).")
        return []
    kept = (row for row in found if not row[0].startswith(".") and row[0] not in _IGNORED)
    return sorted(kept)


def _classes(
    found: Mapping[str, _ClassFolders], task: Task, problems: list[str]
) -> tuple[str, ...]:
    """The names of the class folders of all splits, sorted.

    With more of them than the task has classes, the folders of train are the classes, if their
    number is right.
    """
    every = tuple(sorted({name for part in found.values() for name in part.images}))
    trained = tuple(found["train"].images)
    if len(every) > task.classes == len(trained):
        _check_class_folders(found, trained, f"train has the {task.classes} classes", problems)
        return trained
    if len(every) != task.classes and every:
        problems.append(
            f"{found['train'].folder}: the splits have {len(every)} class folders together "
            f"({', '.join(every):.200}); the suite says {task.classes} classes."
        )
    return every


def _check_class_folders(
    found: Mapping[str, _ClassFolders], classes: Sequence[str], why: str, problems: list[str]
) -> None:
    for part in found.values():
        for name in sorted(set(part.images) - set(classes)):
            problems.append(
                f"{part.folder / name}: this folder is no class; {why}: {', '.join(classes):.200}."
            )


def _list_entries(part: _ClassFolders, classes: Sequence[str]) -> list[ListEntry]:
    labels = {name: label for label, name in enumerate(classes)}
    return [
        ListEntry("", f"{name}/{image}", labels.get(name, UNKNOWN))
        for name, images in part.images.items()
        for image in images
    ]


_FORMS: Mapping[str, _Form] = {
    "folders": _read_folders,
    "lists": _read_lists,
    "parquet": parquet.read,
}
