"""VTAB-1k as the NOAH, FacT, EFFT and SSF scripts share it.

<root>/<task>/images/…
<root>/<task>/{train800,val200,test,train800val200}.txt      lines `relative/path label`
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.data.layouts.lists import make_listing, read_list, without_items
from orchestrator.data.layouts.tree import Entry, Tree, find_folder
from orchestrator.data.listing import Listing
from orchestrator.spec import Task
from orchestrator.tasks.suites import VTAB

_LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
_BOTH = "train800val200.txt"


def read(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
    """The listing of a task below the suite's root, or below `vtab-1k/` in it."""
    problems: list[str] = []
    names = (task.name, *task.aliases)
    folder = find_folder(root, names, VTAB.variable, "vtab-1k", problems)
    if folder is None:
        return without_items(problems)
    entries: dict[str, list[Entry]] = {}
    for split, name in _LISTS.items():
        entries[split] = read_list(folder / name, task.classes, problems)
    if not problems:
        _check_both(folder / _BOTH, [*entries["train"], *entries["val"]], task.classes, problems)
    return make_listing(Tree(folder, root), entries, problems)


def _check_both(path: Path, parts: Sequence[Entry], classes: int, problems: list[str]) -> None:
    """The list of train and val together, where there is one, must have the same labels.

    Its paths differ: it names other copies of the same images.
    """
    if not os.path.exists(path):
        return
    together = read_list(path, classes, problems)
    if problems:
        return
    names = f"{_LISTS['train']} and {_LISTS['val']}"
    if len(together) != len(parts):
        problems.append(f"{path}: it lists {len(together)} images; {names} list {len(parts)}.")
        return
    there, here = (Counter(entry.label for entry in part) for part in (together, parts))
    differing = [label for label in range(classes) if there[label] != here[label]]
    if differing:
        shown = ", ".join(f"{n} ({there[n]} times, there {here[n]})" for n in differing)
        problems.append(f"{path}: its labels are not those of {names}: {shown}.")
