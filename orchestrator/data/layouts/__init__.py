"""Layouts: how the images of a suite lie on disk; each turns lists into a `Listing`.

A layout never raises for what it finds: every problem goes into `Listing.problems`. The items of a
listing with problems are the images that exist, with the label that their list states, or -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.data.layouts import vtab_val
from orchestrator.data.layouts.benchmarks import benchmark, read_fewshot, read_fgvc, read_vtab
from orchestrator.data.layouts.own import read_own
from orchestrator.data.layouts.tree import find_folder
from orchestrator.data.listing import SPLITS, Listing
from orchestrator.data.suite_root import folder_names
from orchestrator.errors import DataError, InvalidInput, unknown
from orchestrator.spec import Suite, Task
from orchestrator.tasks.suites import FEWSHOT, FGVC, VTAB

Layout = Callable[[Path, Task, Mapping[str, Any]], Listing]
"""Called with the suite's root, the task, and the task's part of `Suite.files`."""

LAYOUTS: Mapping[str, Layout] = {
    "vtab": benchmark(VTAB, "vtab-1k", read_vtab),
    "fgvc": benchmark(FGVC, "fgvc", read_fgvc),
    "fewshot": benchmark(FEWSHOT, "few-shot", read_fewshot),
    "files": read_own,
}


def write_val_lists(
    suite: Suite, tasks: Sequence[Task], root: Path | None, choice: str
) -> dict[str, bool]:
    """Write the lists of train and val where a task has one list of both; task → whether it had.

    `choice` is one of `vtab_val.CHOICES`. `InvalidInput` for another suite and another choice;
    `DataError` with all problems, after the other tasks' lists are written.
    """
    if suite.layout != "vtab" or root is None:
        raise InvalidInput(
            f"suite '{suite.name}' has no folder in which lists could be written: this command is "
            "for vtab; name its folder with --suite-root or in $VTAB_ROOT."
        )
    if choice not in vtab_val.CHOICES:
        raise unknown("choice of val", choice, vtab_val.CHOICES)
    made: dict[str, bool] = {}
    problems: list[str] = []
    for task in tasks:
        names = folder_names(suite, task)
        folder = find_folder(root, names, suite.variable, "vtab-1k", problems)
        try:
            if folder is not None:
                made[task.name] = vtab_val.write_lists(folder, task, choice)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(dict.fromkeys(problems)))
    return made


def read_listing(suite: Suite, task: Task, root: Path) -> Listing:
    """What the suite's folder of images lists for a task, with all problems."""
    if suite.layout not in LAYOUTS:
        raise unknown(f"layout of suite '{suite.name}'", suite.layout, LAYOUTS)
    files = suite.files.get(task.name, {})
    listing = LAYOUTS[suite.layout](root, task, files)
    if listing.problems:
        return listing
    return replace(listing, problems=tuple(_empty_splits(listing, files)))


def _empty_splits(listing: Listing, files: Mapping[str, Any]) -> Iterator[str]:
    shares = [form["val"] for form in files.values() if isinstance(form, Mapping)]
    for name in SPLITS:
        if not listing.splits[name]:
            why = ""
            if name == "val" and shares and isinstance(shares[0], float):
                why = (
                    f": a share of {shares[0]:g} is held out from train by class, which takes two "
                    "images of a class or more"
                )
            yield f"{name} has no image{why}."
