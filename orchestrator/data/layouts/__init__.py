"""Layouts: how the images of a suite lie on disk; each turns lists into a `Listing`.

A layout never raises for what it finds: every problem goes into `Listing.problems`. The items of a
listing with problems are the images that exist, with the label that their list states, or -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.layouts.benchmarks import read_fewshot, read_fgvc, read_vtab
from orchestrator.data.layouts.own import read_own
from orchestrator.data.listing import Listing
from orchestrator.spec import Task


class Layout(Protocol):
    """Called with the suite's root, the task, and the task's part of `Suite.files`."""

    def __call__(self, root: Path, task: Task, files: Mapping[str, Any]) -> Listing: ...


LAYOUTS: Mapping[str, Layout] = {
    "vtab": read_vtab,
    "fgvc": read_fgvc,
    "fewshot": read_fewshot,
    "files": read_own,
}
