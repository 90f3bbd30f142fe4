"""The few-shot benchmark of NOAH.

<root>/<dataset>/images/…                                        or the images beside annotations/
<root>/<dataset>/annotations/train_meta.list.num_shot_<n>.seed_<s>      lines `relative/path label`
<root>/<dataset>/annotations/{val,test}_meta.list
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.data.layouts.lists import make_listing, read_list, without_items
from orchestrator.data.layouts.tree import Entry, find_folder, pick_tree
from orchestrator.data.listing import Listing
from orchestrator.spec import Task
from orchestrator.tasks.suites import FEWSHOT, draw_of


def read(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
    """The listing of a task: one draw of a dataset's training images, its val and its test."""
    problems: list[str] = []
    names = [draw_of(name).dataset for name in (task.name, *task.aliases)]
    folder = find_folder(root, names, FEWSHOT.variable, "few-shot", problems)
    if folder is None:
        return without_items(problems)
    entries: dict[str, list[Entry]] = {}
    for split, name in _lists(task).items():
        entries[split] = read_list(folder / "annotations" / name, task.classes, problems)
    firsts = [entry.path for part in entries.values() for entry in part[:1]]
    tree = pick_tree(folder, root, ("images", "."), firsts)
    return make_listing(tree, entries, problems)


def _lists(task: Task) -> Mapping[str, str]:
    draw = draw_of(task.name)
    train = f"train_meta.list.num_shot_{draw.shots}.seed_{draw.seed}"
    return {"train": train, "val": "val_meta.list", "test": "test_meta.list"}
