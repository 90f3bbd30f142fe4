"""The folder of a suite's raw images: one that the user names, or the one that fetch fills."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.data.prepared.store import default_root
from orchestrator.errors import InvalidInput
from orchestrator.spec import Suite, Task
from orchestrator.tasks.suites import draw_of

DEPTH = 2
"""How far below a named folder the task folders may lie: `data/vtab-1k/cifar` is found."""


def suite_root(suite: Suite, given: Path | None) -> Path | None:
    """The folder with the suite's task folders.

    It is at or below `given` (the option --suite-root), else the folder that the environment
    variable `suite.variable` names, else the default folder. None if that does not exist.
    `InvalidInput` if one of the first two is set and is no folder.
    """
    if given is not None and not suite.variable:
        raise InvalidInput(
            f"suite '{suite.name}' is not read from a folder that --suite-root could name; leave it"
            " out."
        )
    named = _named(suite, given)
    if named is None:
        folder = default_folder(suite)
        return tasks_root(suite, folder) if folder.is_dir() else None
    folder, named_by = named
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise InvalidInput(
            f"{named_by} is '{folder}', which {what}. Name the folder with the task folders of "
            f"suite '{suite.name}', or leave it out: without it, what is prepared already is used."
        )
    return tasks_root(suite, folder)


def fetch_target(suite: Suite, given: Path | None) -> Path:
    """Where fetch puts the suite: `given`, the variable's folder, or the default folder."""
    named = _named(suite, given)
    return default_folder(suite) if named is None else named[0]


def default_folder(suite: Suite) -> Path:
    """`~/.cache/orchestrate/suites/NAME`, or beside the folder that `ORCHESTRATE_DATA` names."""
    return default_root().absolute().parent / "suites" / suite.name


def tasks_root(suite: Suite, folder: Path) -> Path:
    """`folder`, or the folder at most `DEPTH` levels below it that holds most task folders.

    The upper one wins a tie; `folder` itself if there are none.
    """
    return max(_candidates(suite, folder, DEPTH), key=lambda found: len(tasks_in(suite, found)))


def tasks_in(suite: Suite, folder: Path) -> tuple[str, ...]:
    """The tasks that have a folder directly in `folder`, by their name or an alias."""
    present = {path.name.casefold() for path in _folders(folder)}
    return tuple(
        task.name
        for task in suite.tasks
        if any(name.casefold() in present for name in folder_names(suite, task))
    )


def folder_names(suite: Suite, task: Task) -> tuple[str, ...]:
    """Possible names of the task's folder, in upper or lower case; the usual one first."""
    names = (task.name, *task.aliases)
    if suite.layout == "fewshot":  # the draws of a dataset share its folder
        return tuple(draw_of(name).dataset for name in names)
    return names


def _named(suite: Suite, given: Path | None) -> tuple[Path, str] | None:
    """The folder that the user named, and by which option or variable."""
    if given is not None:
        return given.expanduser(), "--suite-root"
    value = os.environ.get(suite.variable) if suite.variable else None
    return (Path(value).expanduser(), f"${suite.variable}") if value else None


def _candidates(suite: Suite, folder: Path, depth: int) -> Iterator[Path]:
    """`folder` and, where it holds no task folders itself, the folders below it, sorted."""
    yield folder
    if depth and not tasks_in(suite, folder):
        for path in _folders(folder):
            yield from _candidates(suite, path, depth - 1)


def _folders(folder: Path) -> list[Path]:
    """Sub-folders by name, without hidden ones and what macOS adds to archives (`__MACOSX`)."""
    with suppress(OSError), os.scandir(folder) as entries:  # it may be gone or unreadable
        names = (entry.name for entry in entries if os.path.isdir(entry.path))
        return sorted(folder / name for name in names if not name.startswith((".", "__")))
    return []
