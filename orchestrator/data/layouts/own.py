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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.images import is_image
from orchestrator.data.layouts import parquet
from orchestrator.data.layouts.lists import UNKNOWN, hold_out, make_listing, read_list
from orchestrator.data.layouts.tree import FileTree, ListEntry, normal_form, on_disk
from orchestrator.data.listing import SPLITS, Listing
from orchestrator.spec import Task

_PATHS = ("root", *SPLITS)
_Form = Callable[[Path, Task, Mapping[str, Any], tuple[str, ...], list[str]], Listing]
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
_IGNORED = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
"""What systems leave behind, in any case of letters: ignored, like hidden files."""
_UNREAD = (
    ".arw", ".cr2", ".dcm", ".dds", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico",
    ".jxl", ".nef", ".npy", ".pcx", ".psd", ".svg", ".tga",
)  # fmt: skip
"""Images of formats that are not read: leaving them out would change the task."""


def read_own(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
    """The listing of a task. Links may lead into the YAML file's folder; `root` is not used."""
    problems: list[str] = []
    form = next(form for form in _FORMS if form in files)
    named = files[form]
    if form != "parquet":  # which has patterns and lists of files
        paths = {name: on_disk(named[name]) for name in _PATHS if isinstance(named.get(name), str)}
        named = {**named, **paths}
        _check_paths(named, problems)
    names = tuple(files.get("classes", ()))
    return _FORMS[form](Path(files["inside"]), task, named, names, problems)


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
            entries[split] = read_list(Path(files[split]), task.classes, problems, names)
    return make_listing(FileTree(Path(files["root"]), inside), entries, problems, names)


@dataclass(frozen=True)
class _ClassFolders:
    """Class folders of one split, sorted, each with its images' names, sorted.

    Classes have their names in Unicode's composed form, `spelt` as the disk has them.
    """

    folder: Path
    images: Mapping[str, Sequence[str]]
    spelt: Mapping[str, str]

    def path(self, name: str) -> Path:
        """The folder of a class."""
        return self.folder / self.spelt[name]


def _read_folders(
    inside: Path, task: Task, files: Mapping[str, Any], names: tuple[str, ...], problems: list[str]
) -> Listing:
    """`{train: DIR, val: DIR, test: DIR}`. Labels follow `names`, or the sorted class folders."""
    left_out: list[Path] = []
    found = {
        split: _scan(Path(files[split]), problems, left_out)
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
    return Listing(items, tuple(problems), tuple(classes), tuple(_left_out(left_out)))


def _left_out(files: Sequence[Path]) -> Iterator[str]:
    if files:
        count = "1 file" if len(files) == 1 else f"{len(files):,} files"
        kinds = Counter(path.suffix.lower() or "no suffix" for path in files).most_common(5)
        shown = ", ".join(f"{kind} {number:,}" for kind, number in kinds)
        yield f"left out of the class folders: {count} that are no images ({shown}), {files[0]}."


def _scan(folder: Path, problems: list[str], left_out: list[Path]) -> _ClassFolders:
    images: dict[str, Sequence[str]] = {}
    spelt: dict[str, str] = {}
    for name, is_folder in _content_of(folder, problems):
        plain = normal_form(name)
        if is_folder and plain in spelt:
            problems.append(
                f"{folder}: it has two folders {plain!r}, whose names differ in Unicode form only "
                f"({spelt[plain]!a}, {name!a}); put their images into one."
            )
        elif is_folder:
            spelt[plain] = name
            images[plain] = list(_images(folder / name, problems, left_out))
        elif name.lower().endswith(SUFFIXES):
            problems.append(f"{folder / name}: this image lies in no class folder.")
    if not any(images.values()) and os.path.isdir(folder):
        problems.append(f"{folder}: it has no image in a folder of a class.")
    return _ClassFolders(folder, images, spelt)


def _images(folder: Path, problems: list[str], left_out: list[Path]) -> Iterable[str]:
    for name, is_folder in _content_of(folder, problems):
        if is_folder:
            problems.append(
                f"{folder / name}: this folder lies in a class folder; put its images directly "
                "into the class folder."
            )
        elif name.lower().endswith(SUFFIXES):
            yield name
        elif name.lower().endswith(_UNREAD):
            problems.append(
                f"{folder / name}: images of this kind are not read (allowed: "
                f"{', '.join(SUFFIXES)}); convert it or move it elsewhere."
            )
        elif is_image(folder / name):
            problems.append(
                f"{folder / name}: this is an image, but not by its name ({', '.join(SUFFIXES)}); "
                "rename it or move it elsewhere."
            )
        else:
            left_out.append(folder / name)


def _content_of(folder: Path, problems: list[str]) -> list[tuple[str, bool]]:
    """What is in a folder, sorted by name, and whether it is a folder itself."""
    try:
        with os.scandir(folder) as entries:
            # os.path: a circular link is then no folder and raises no error.
            found = [(entry.name, os.path.isdir(entry.path)) for entry in entries]
    except OSError as error:
        problems.append(f"{folder}: this folder cannot be read ({error.strerror}).")
        return []
    kept = (
        row for row in found if not row[0].startswith(".") and row[0].casefold() not in _IGNORED
    )
    return sorted(kept, key=lambda row: (normal_form(row[0]), row[0]))


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
                f"{part.path(name)}: this folder is no class; {why}: {', '.join(classes):.200}."
            )


def _list_entries(part: _ClassFolders, classes: Sequence[str]) -> list[ListEntry]:
    labels = {name: label for label, name in enumerate(classes)}
    return [
        ListEntry("", f"{part.spelt[name]}/{image}", labels.get(name, UNKNOWN))
        for name, images in part.images.items()
        for image in images
    ]


_FORMS: Mapping[str, _Form] = {
    "folders": _read_folders,
    "lists": _read_lists,
    "parquet": parquet.read,
}
