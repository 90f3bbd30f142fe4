"""The published benchmarks as their authors' scripts lay them out.

VTAB-1k, as the NOAH, FacT, EFFT and SSF scripts share it:
<root>/<task>/images/…
<root>/<task>/{train800,val200,test,train800val200}.txt      lines `relative/path label`
with train800val200.txt and test.txt alone: see `vtab_val.py`

FGVC, with the splits of VPT:
<root>/<task>/{train,val,test}.json      {"relative/path": class id}
<root>/<task>/images/…                   or Images/…, or beside the lists

The few-shot benchmark of NOAH:
<root>/<dataset>/images/…                or the images beside annotations/
<root>/<dataset>/annotations/train_meta.list.num_shot_<n>.seed_<s>      lines `relative/path label`
<root>/<dataset>/annotations/{val,test}_meta.list
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.data.layouts import vtab_val
from orchestrator.data.layouts.labels import sorted_ids
from orchestrator.data.layouts.lists import (
    UNKNOWN,
    make_listing,
    read_list,
    read_text,
    relative_path,
)
from orchestrator.data.layouts.tree import FileTree, ListEntry, find_folder, pick_tree
from orchestrator.data.listing import SPLITS, Listing
from orchestrator.data.suite_root import folder_names
from orchestrator.spec import Suite, Task
from orchestrator.tasks.suites import draw_of

_VTAB_LISTS = {"train": vtab_val.TRAIN, "val": vtab_val.VAL, "test": "test.txt"}


_Reader = Callable[[Path, Path, Task, list[str]], Listing]
"""Reads a task in its folder, in the suite's root; adds to the problems."""


def benchmark(suite: Suite, nested: str, read: _Reader) -> Callable[..., Listing]:
    """A layout whose tasks have folders in the suite's root, or in the folder `nested` in it."""

    def layout(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
        problems: list[str] = []
        folder = find_folder(root, folder_names(suite, task), suite.variable, nested, problems)
        if folder is None:
            return Listing(dict.fromkeys(SPLITS, ()), tuple(problems))
        return read(folder, root, task, problems)

    return layout


def read_vtab(folder: Path, root: Path, task: Task, problems: list[str]) -> Listing:
    """The listing of a task of VTAB-1k."""
    unsplit = vtab_val.missing(folder, task, problems)
    entries = {
        split: []
        if unsplit and split != "test"
        else read_list(folder / name, task.classes, problems)
        for split, name in _VTAB_LISTS.items()
    }
    both = folder / vtab_val.BOTH
    notes: tuple[str, ...] = ()
    if not problems and os.path.exists(both):
        _check_both(both, [*entries["train"], *entries["val"]], task.classes, problems)
        notes = vtab_val.chosen(folder, task, entries, problems)
    return replace(make_listing(FileTree(folder, root), entries, problems), notes=notes)


def _check_both(path: Path, parts: Sequence[ListEntry], classes: int, problems: list[str]) -> None:
    """The list of train and val together must have the same labels.

    Its paths differ: it names other copies of the same images.
    """
    together = read_list(path, classes, problems)
    if problems:
        return
    names = f"{_VTAB_LISTS['train']} and {_VTAB_LISTS['val']}"
    if len(together) != len(parts):
        problems.append(f"{path}: it lists {len(together)} images; {names} list {len(parts)}.")
        return
    there, here = (Counter(entry.label for entry in part) for part in (together, parts))
    differing = [label for label in range(classes) if there[label] != here[label]]
    if differing:
        shown = ", ".join(f"{n} ({there[n]} times, there {here[n]})" for n in differing)
        problems.append(f"{path}: its labels are not those of {names}: {shown}.")


def read_fewshot(folder: Path, root: Path, task: Task, problems: list[str]) -> Listing:
    """The listing of a task: one draw of a dataset's training images, its val and its test."""
    draw = draw_of(task.name)
    lists = {
        "train": f"train_meta.list.num_shot_{draw.shots}.seed_{draw.seed}",
        "val": "val_meta.list",
        "test": "test_meta.list",
    }
    entries = {
        split: read_list(folder / "annotations" / name, task.classes, problems)
        for split, name in lists.items()
    }
    firsts = [entry.path for part in entries.values() for entry in part[:1]]
    tree = pick_tree(folder, root, ("images", "."), firsts)
    return make_listing(tree, entries, problems)


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')
"""A JSON string, with the colon behind it if it is a key."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated keys."""


class _JsonEntry(NamedTuple):
    """An image with the id of its class, before it has a label; None: no usable id."""

    listed: str
    path: str
    id: str | None


def read_fgvc(folder: Path, root: Path, task: Task, problems: list[str]) -> Listing:
    """The listing of a task; labels are the ids of all three lists, sorted, counted from 0."""
    named = {split: _read_json(folder / f"{split}.json", problems) for split in SPLITS}
    ids = sorted_ids(image.id for part in named.values() for image in part)
    if len(ids) != task.classes and all(named.values()):
        problems.append(
            f"{folder}: train.json, val.json and test.json have {len(ids)} class ids together; "
            f"task '{task.name}' has {task.classes} classes."
        )
    firsts = [image.path for part in named.values() for image in part[:1]]
    tree = pick_tree(folder, root, ("images", "Images", "."), firsts)
    entries = {split: _labelled(part, ids) for split, part in named.items()}
    return make_listing(tree, entries, problems, ids)


def _read_json(path: Path, problems: list[str]) -> list[_JsonEntry]:
    """The images of a list, in order."""
    text = read_text(path, problems)
    if text is None:
        return []
    try:
        content = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: this is not JSON: {error.msg}.")
        return []
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; too many brackets
        problems.append(f"{path}: this JSON cannot be read: {error}.")
        return []
    if not isinstance(content, _Pairs):
        problems.append(f'{path}: a list must be one object, {{"relative/path": class id}}.')
        return []
    images = list(_images(path, text, content, problems))
    if not images:
        problems.append(f"{path}: it lists no image.")
    return images


def _images(path: Path, text: str, pairs: _Pairs, problems: list[str]) -> Iterator[_JsonEntry]:
    lines = _lines_of_keys(text)
    numbered = len(lines) == len(pairs)  # a nested object has keys of its own
    for index, (key, value) in enumerate(pairs):
        listed = f"{path}:{lines[index]}" if numbered else str(path)
        name = _id_of(value)
        if name is None:
            shown = "an object" if isinstance(value, _Pairs) else f"{value!r:.60}"
            problems.append(f"{listed}: the class id of {key!r} is {shown}, no integer or text.")
        plain = relative_path(key, listed, problems)
        if plain is not None:
            yield _JsonEntry(listed, plain, name)


def _lines_of_keys(text: str) -> list[int]:
    lines, line, position = [], 1, 0
    for match in _STRING.finditer(text):
        if match[1]:
            line += text.count("\n", position, match.start())
            position = match.start()
            lines.append(line)
    return lines


def _id_of(value: Any) -> str | None:
    usable = isinstance(value, int | str) and not isinstance(value, bool)
    return str(value) if usable else None


def _labelled(images: Sequence[_JsonEntry], ids: Sequence[str]) -> list[ListEntry]:
    labels: dict[str | None, int] = {name: label for label, name in enumerate(ids)}
    return [ListEntry(image.listed, image.path, labels.get(image.id, UNKNOWN)) for image in images]
