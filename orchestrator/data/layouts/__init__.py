"""How the images of a suite lie on disk: one file per layout, each turning lists into a Listing.

A layout never raises for what it finds: everything wrong goes into `Listing.problems`. Of a listing
with problems the items are the images that are there, with the label that their list states, or -1
where it states none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.layouts import fewshot, fgvc, files, vtab
from orchestrator.data.listing import Listing
from orchestrator.spec import Task


class Layout(Protocol):
    """Called with the suite's root, the task, and the task's part of `Suite.files`."""

    def __call__(self, root: Path, task: Task, files: Mapping[str, Any]) -> Listing: ...


LAYOUTS: Mapping[str, Layout] = {
    "vtab": vtab.read,
    "fgvc": fgvc.read,
    "fewshot": fewshot.read,
    "files": files.read,
}
