"""FGVC with the splits of VPT.

<root>/<task>/{train,val,test}.json      {"relative/path": class id}
<root>/<task>/images/…                   or Images/…, or beside the lists
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.layouts.lists import (
    UNKNOWN,
    make_listing,
    plain_path,
    read_text,
    without_items,
)
from orchestrator.data.layouts.tree import Entry, find_folder, pick_tree
from orchestrator.data.listing import Listing
from orchestrator.data.prepared.manifest import SPLITS
from orchestrator.spec import Task
from orchestrator.tasks.suites import FGVC

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')
"""A JSON string, with the colon behind it if it is a key."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written, repeated keys included."""


@dataclass(frozen=True)
class _Named:
    """An image with the id of its class, before the ids of all splits are known; None: no id."""

    listed: str
    path: str
    id: str | None


def read(root: Path, task: Task, files: Mapping[str, Any]) -> Listing:
    """The listing of a task; labels are the ids of all three lists, sorted, counted from 0."""
    problems: list[str] = []
    names = (task.name, *task.aliases)
    folder = find_folder(root, names, FGVC.variable, "fgvc", problems)
    if folder is None:
        return without_items(problems)
    named: dict[str, list[_Named]] = {}
    for split in SPLITS:
        named[split] = _read_json(folder / f"{split}.json", problems)
    ids = _sorted_ids(image.id for part in named.values() for image in part)
    if len(ids) != task.classes and all(named.values()):
        problems.append(
            f"{folder}: train.json, val.json and test.json have {len(ids)} class ids together; "
            f"task '{task.name}' has {task.classes} classes."
        )
    firsts = [image.path for part in named.values() for image in part[:1]]
    tree = pick_tree(folder, root, ("images", "Images", "."), firsts)
    entries = {split: _labelled(part, ids) for split, part in named.items()}
    return make_listing(tree, entries, problems, ids)


def _read_json(path: Path, problems: list[str]) -> list[_Named]:
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


def _images(path: Path, text: str, pairs: _Pairs, problems: list[str]) -> Iterator[_Named]:
    lines = _lines_of_keys(text)
    numbered = len(lines) == len(pairs)  # a nested object has keys of its own
    for index, (key, value) in enumerate(pairs):
        listed = f"{path}:{lines[index]}" if numbered else str(path)
        name = _id_of(value)
        if name is None:
            shown = "an object" if isinstance(value, _Pairs) else f"{value!r:.60}"
            problems.append(f"{listed}: the class id of {key!r} is {shown}, no integer or text.")
        plain = plain_path(key, listed, problems)
        if plain is not None:
            yield _Named(listed, plain, name)


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


def _sorted_ids(names: Iterator[str | None]) -> tuple[str, ...]:
    """The distinct ids: as numbers if all are, else as text."""
    ids = {name for name in names if name is not None}
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in ids):
        return tuple(sorted(ids, key=lambda name: (int(name), name)))
    return tuple(sorted(ids))


def _labelled(images: Sequence[_Named], ids: Sequence[str]) -> list[Entry]:
    labels: dict[str | None, int] = {name: label for label, name in enumerate(ids)}
    return [Entry(image.listed, image.path, labels.get(image.id, UNKNOWN)) for image in images]
