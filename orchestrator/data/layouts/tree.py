"""The files below a task's folder, listed one directory at a time: 75,000 in half a second."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orchestrator.data.listing import FileItem


class ListEntry(NamedTuple):
    """One line of a list: `listed` names list and line, `path` is relative to the folder."""

    listed: str
    path: str
    label: int


def normal_form(name: str) -> str:
    """The name in Unicode's composed form: `é` is one character, or two that look the same."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def on_disk(path: Path | str) -> str:
    """The path as the disk has it: a copy between systems may change a name's Unicode form."""
    text = str(path)
    if text.isascii() or os.path.lexists(text):
        return text
    parent, name = os.path.split(text)
    if not name or parent == text:
        return text
    parent = on_disk(parent)
    try:
        found = [own for own in os.listdir(parent) if normal_form(own) == normal_form(name)]
    except (OSError, ValueError):
        found = []
    return os.path.join(parent, found[0] if len(found) == 1 else name)


@dataclass(frozen=True)
class _Directory:
    path: Path
    files: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    problem: str = ""
    _forms: dict[str, str] = field(default_factory=dict)

    def spelt(self, name: str) -> str:
        """The name as the disk has it, if it is there in another Unicode form."""
        if name.isascii() or name in self.files or name in self.links:
            return name
        if not self._forms:
            self._forms.update({normal_form(own): own for own in (*self.files, *self.links)})
        return self._forms.get(normal_form(name), name)


class FileTree:
    """The files below `folder`.

    Symbolic links are followed as long as their target lies inside `folder` or `root`.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._inside = tuple({os.path.realpath(folder), os.path.realpath(root)})
        self._directories: dict[str, _Directory] = {}

    def items(self, entries: Sequence[ListEntry], problems: list[str]) -> tuple[FileItem, ...]:
        """The entries whose files exist, in order; the others are added to `problems`.

        Images of one absent folder are one problem.
        """
        found: list[FileItem] = []
        absent: dict[str, list[ListEntry]] = {}
        for entry in entries:
            parent, _, name = entry.path.rpartition("/")
            directory = self._directory(parent)
            name = directory.spelt(name)
            if directory.problem:
                absent.setdefault(directory.problem, []).append(entry)
            elif problem := self._problem(directory, name):
                problems.append(f"{entry.listed}: {problem}.")
            else:
                found.append(FileItem(f"{directory.path}/{name}", entry.label, entry.listed))
        for problem, lost in absent.items():
            more = f" ({len(lost):,} listed images lie in it)" if len(lost) > 1 else ""
            problems.append(f"{lost[0].listed}: {problem}{more}.")
        return tuple(found)

    def has(self, path: str) -> bool:
        """Whether there is a file of that relative path."""
        parent, _, name = path.rpartition("/")
        directory = self._directory(parent)
        return directory.spelt(name) in directory.files | directory.links

    def _directory(self, relative: str) -> _Directory:
        if relative not in self._directories:
            self._directories[relative] = self._scan(relative)
        return self._directories[relative]

    def _scan(self, relative: str) -> _Directory:
        path = Path(on_disk(self.folder / relative))
        try:
            if not self._contains(real := os.path.realpath(path)):
                return _Directory(path, problem=f"the folder '{path}' leads out, to '{real}'")
            with os.scandir(path) as entries:
                kinds = [
                    (entry.name, entry.is_symlink(), entry.is_file(follow_symlinks=False))
                    for entry in entries
                ]
        except FileNotFoundError:
            return _Directory(path, problem=f"the folder '{path}' does not exist")
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            return _Directory(path, problem=f"the folder {str(path)!r} cannot be read ({error})")
        files = frozenset(name for name, link, file in kinds if file and not link)
        return _Directory(path, files, frozenset(name for name, link, _ in kinds if link))

    def _problem(self, directory: _Directory, name: str) -> str:
        if name in directory.files:
            return ""
        path = directory.path / name
        if name not in directory.links:
            what = "is not a file" if os.path.exists(path) else "does not exist"
            return f"the image {str(path)!r} {what}"
        real = os.path.realpath(path)
        if not self._contains(real):
            return f"the image '{path}' is a link that leads out, to '{real}'"
        return "" if os.path.isfile(real) else f"the image '{path}' is a link to no file"

    def _contains(self, real: str) -> bool:
        return any(real == folder or real.startswith(f"{folder}/") for folder in self._inside)


def find_folder(
    root: Path, names: Iterable[str], variable: str, nested: str, problems: list[str]
) -> Path | None:
    """The task's folder: the first of `names` in `root`, or else in `root/nested`.

    Exact names come before those that differ in case only. None, with a problem, if there is none.
    """
    remedy = f"Set {variable} or --suite-root to the folder that holds the tasks"
    names = tuple(dict.fromkeys(names))
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        problems.append(f"the suite's folder '{root}' {what}. {remedy}.")
        return None
    for base in (root, root / nested):
        if folder := _named(base, names):
            return folder
    problems.append(
        f"there is no folder '{names[0]}' in '{root}' (looked for {', '.join(names)}, there and in "
        f"'{nested}/'). {remedy}."
    )
    return None


def pick_tree(
    folder: Path, root: Path, candidates: Sequence[str], paths: Sequence[str]
) -> FileTree:
    """The tree of the first candidate in `folder` that has one of the listed paths.

    If none has, that of the first that exists, so that problems name a likely folder.
    """
    trees = [FileTree(folder / name, root) for name in candidates]
    holding = (tree for tree in trees if any(tree.has(path) for path in paths))
    present = (tree for tree in trees if os.path.isdir(tree.folder))
    return next(holding, None) or next(present, trees[-1])


def _named(base: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        if os.path.isdir(base / name):
            return base / name
    wanted = {name.casefold() for name in names}
    try:
        inside = sorted(path for path in base.iterdir() if path.name.casefold() in wanted)
    except OSError:  # no such folder, or an unreadable one
        return None
    return next((path for path in inside if os.path.isdir(path)), None)
