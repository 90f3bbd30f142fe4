"""A person's own suite: for each task its YAML file names folders, lists or Parquet files.

`files` of a task has one of `folders`, `lists`, `parquet` (with absolute paths), `classes` if the
classes have names, and `inside`, the YAML file's folder. `val` is a path, or the share of train
that is held out as val.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.data.layouts import folders, parquet
from orchestrator.data.layouts.held_out import hold_out
from orchestrator.data.layouts.lists import make_listing, read_list
from orchestrator.data.layouts.tree import Entry, Tree
from orchestrator.data.listing import Listing
from orchestrator.data.prepared.manifest import SPLITS
from orchestrator.spec import Task

_Form = Callable[[Path, Task, Mapping[str, Any], tuple[str, ...], list[str]], Listing]


def read(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
    """The listing of a task. Links may lead into the YAML file's folder; `root` is not used."""
    problems: list[str] = []
    for form, make in _FORMS.items():
        if form in files:
            _check_places(files[form], problems)
            return make(
                Path(files["inside"]), task, files[form], tuple(files.get("classes", ())), problems
            )
    raise ValueError(f"files of task '{task.name}' are {files!r}; allowed: one of {list(_FORMS)}.")


def _check_places(files: Mapping[str, Any], problems: list[str]) -> None:
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
    entries: dict[str, list[Entry]] = {}
    for split in SPLITS:
        if split == "val" and not isinstance(files["val"], str):
            entries["train"], entries["val"] = hold_out(entries["train"], files["val"])
        else:
            entries[split] = read_list(Path(files[split]), task.classes, problems)
    return make_listing(Tree(Path(files["root"]), inside), entries, problems, names)


_FORMS: Mapping[str, _Form] = {
    "folders": folders.read,
    "lists": _read_lists,
    "parquet": parquet.read,
}
