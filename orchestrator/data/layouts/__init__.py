"""Layouts: how the images of a suite lie on disk; each turns lists into a `Listing`.

A layout never raises for what it finds: every problem goes into `Listing.problems`. The items of a
listing with problems are the images that exist, with the label that their list states, or -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.data.layouts.benchmarks import benchmark, read_fewshot, read_fgvc, read_vtab
from orchestrator.data.layouts.own import read_own
from orchestrator.data.listing import SPLITS, Listing
from orchestrator.errors import unknown
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
