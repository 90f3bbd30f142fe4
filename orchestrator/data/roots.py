"""Where a suite's raw images lie: a folder that a person names, or the place that fetch fills."""

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

    It is at or below `given` (the option --suite-root), else the environment variable
    `suite.variable`, else the default place, if there is anything. None if there is not.
    `InvalidInput` if one of the first two is set and is no folder.
    """
    if given is not None and not suite.variable:
        raise InvalidInput(
            f"suite '{suite.name}' is not read from a folder that --suite-root could name; leave it"
            " out."
        )
    named = _named(suite, given)
    if named is None:
        place = default_place(suite)
        return tasks_root(suite, place) if place.is_dir() else None
    folder, whose = named
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise InvalidInput(
            f"{whose} is '{folder}', which {what}. Name the folder that holds the task folders of "
            f"suite '{suite.name}', or leave it out: without it, what is prepared already is used."
        )
    return tasks_root(suite, folder)


def fetch_target(suite: Suite, given: Path | None) -> Path:
    """Where fetch puts the suite: `given`, the variable's folder, or the default place."""
    named = _named(suite, given)
    return default_place(suite) if named is None else named[0]


def default_place(suite: Suite) -> Path:
    """`~/.cache/orchestrate/suites/NAME`, or beside the folder that `ORCHESTRATE_DATA` names."""
    return default_root().absolute().parent / "suites" / suite.name


def tasks_root(suite: Suite, folder: Path) -> Path:
    """`folder`, or the folder at most `DEPTH` levels below it that holds most task folders.

    The upper one wins a tie; `folder` itself if there are none.
    """
    return max(_below(suite, folder, DEPTH), key=lambda place: len(tasks_in(suite, place)))


def tasks_in(suite: Suite, folder: Path) -> tuple[str, ...]:
    """The tasks that have a folder directly in `folder`, under their name or an alias."""
    present = {path.name.casefold() for path in _folders(folder)}
    return tuple(
        task.name
        for task in suite.tasks
        if any(name.casefold() in present for name in folder_names(suite, task))
    )


def folder_names(suite: Suite, task: Task) -> tuple[str, ...]:
    """What the task's folder may be called, in any case; the first is the usual one."""
    names = (task.name, *task.aliases)
    if suite.layout == "fewshot":  # the draws of a dataset share its folder
        return tuple(draw_of(name).dataset for name in names)
    return names


def _named(suite: Suite, given: Path | None) -> tuple[Path, str] | None:
    """The folder that a person named, and how."""
    if given is not None:
        return given.expanduser(), "--suite-root"
    value = os.environ.get(suite.variable) if suite.variable else None
    return (Path(value).expanduser(), f"${suite.variable}") if value else None


def _below(suite: Suite, folder: Path, depth: int) -> Iterator[Path]:
    """`folder` and, where it holds no task folders itself, what is below it, sorted."""
    yield folder
    if depth and not tasks_in(suite, folder):
        for path in _folders(folder):
            yield from _below(suite, path, depth - 1)


def _folders(folder: Path) -> list[Path]:
    """Sub-folders by name, without hidden ones and what macOS adds to archives (`__MACOSX`)."""
    with suppress(OSError), os.scandir(folder) as entries:  # gone, or not ours to read
        names = (entry.name for entry in entries if os.path.isdir(entry.path))
        return sorted(folder / name for name in names if not name.startswith((".", "__")))
    return []
