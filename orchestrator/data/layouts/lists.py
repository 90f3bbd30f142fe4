"""Lists of images: text files with one `relative/path label` a line, and the checks on entries."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.data.layouts.tree import FileTree, ListEntry, normal_form
from orchestrator.data.listing import SPLITS, Item, Listing
from orchestrator.storage.files import read_file

_MOST_BYTES = 2**30
UNKNOWN = -1
"""The label of an entry whose list states none."""


def read_list(
    path: Path, classes: int, problems: list[str], names: Sequence[str] = ()
) -> list[ListEntry]:
    """The entries of a list; labels are numbers, or `names` without spaces. Blank lines, CRLF and a
    BOM are fine.
    """
    known = {name: label for label, name in enumerate(names) if not name.isdecimal()}
    text = read_text(path, problems)
    if text is None:
        return []
    entries: list[ListEntry] = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line and not line.isspace():
            entry = _entry(f"{path}:{number}", line, classes, known, problems)
            if entry is not None:
                entries.append(entry)
    if not entries:
        problems.append(f"{path}: it lists no image.")
    return entries


def read_text(path: Path, problems: list[str]) -> str | None:
    """A UTF-8 file's text without its BOM; None, with a problem, if it cannot be read."""
    try:
        data = read_file(path, _MOST_BYTES)
    except FileNotFoundError:
        problems.append(f"{path}: this list is missing.")
        return None
    except OSError as error:
        problems.append(f"{path}: this list cannot be read ({error.strerror}).")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(f"{path}:{line}: this is not UTF-8 text; save the list as UTF-8.")
        return None


def label_of(text: str, classes: int, listed: str, problems: list[str]) -> int:
    """The label that a list states; a problem unless it is an integer in 0…classes-1."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        problems.append(f"{listed}: the label is {text!r:.60}, not an integer.")
        return UNKNOWN
    label = int(text) if len(digits) < 10 else 10**9
    if not 0 <= label < classes:
        problems.append(f"{listed}: the label is {text:.60}; allowed: 0…{classes - 1}.")
    return label


def relative_path(path: str, listed: str, problems: list[str]) -> str | None:
    """The normalised path; None, with a problem, if it is absolute or climbs out by `..`."""
    plain = path
    if path.startswith(".") or "/." in path or "//" in path:
        plain = os.path.normpath(path)
    if "\0" in path or plain == ".." or plain.startswith(("/", "../")):
        problems.append(
            f"{listed}: the path {path!r:.200} leaves its folder; only relative paths without '..' "
            "are allowed."
        )
        return None
    return plain


def make_listing(
    tree: FileTree,
    splits: Mapping[str, Sequence[ListEntry]],
    problems: list[str],
    classes: Sequence[str] = (),
) -> Listing:
    """The listing of entries whose files lie in one tree."""
    check_repeats(splits, problems)
    items: dict[str, Sequence[Item]] = {
        name: tree.items(splits.get(name, ()), problems) for name in SPLITS
    }
    return Listing(items, tuple(problems), tuple(classes))


def check_repeats(splits: Mapping[str, Sequence[ListEntry]], problems: list[str]) -> None:
    """A problem for every image that is listed twice, in one split or in two."""
    seen: dict[str, tuple[str, str]] = {}
    for name, entries in splits.items():
        for entry in entries:
            if entry.path not in seen:
                seen[entry.path] = (name, entry.listed)
            else:
                split, listed = seen[entry.path]
                where = "twice" if split == name else f"in both {split} and {name}"
                problems.append(
                    f"{entry.listed}: the image {entry.path!r} is listed {where} (first: {listed})."
                )


def _entry(
    listed: str, line: str, classes: int, known: Mapping[str, int], problems: list[str]
) -> ListEntry | None:
    parts = line.strip().rsplit(None, 1)
    if len(parts) < 2:
        problems.append(f"{listed}: the line is {line!r:.200}, not 'relative/path label'.")
        return None
    label = known.get(normal_form(parts[1]))
    if label is None:
        label = label_of(parts[1], classes, listed, problems)
    path = relative_path(parts[0], listed, problems)
    return None if path is None else ListEntry(listed, path, label)


def hold_out(entries: Sequence[ListEntry], share: float) -> tuple[list[ListEntry], list[ListEntry]]:
    """Train and val, split off from it: of each class about `share` of its images.

    A class with two images or more has one on each side; a single image stays in train. The choice
    depends only on the paths in the list: it is the same on every machine, wherever the images
    lie, and hardly changes when a few are added. The order is kept.
    """
    by_label: dict[int, list[ListEntry]] = {}
    for entry in entries:
        by_label.setdefault(entry.label, []).append(entry)
    chosen: set[ListEntry] = set()
    for part in by_label.values():
        count = max(1, min(round(share * len(part)), len(part) - 1)) if len(part) > 1 else 0
        chosen.update(sorted(part, key=_rank)[:count])
    stay = [entry for entry in entries if entry not in chosen]
    return stay, [entry for entry in entries if entry in chosen]


def _rank(entry: ListEntry) -> bytes:
    return hashlib.sha256(normal_form(entry.path).encode("utf-8", "surrogateescape")).digest()
