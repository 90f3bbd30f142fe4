"""Which prepared tasks a machine has, told without reading their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.prepared import store
from orchestrator.data.prepared.manifest import SPLITS, Manifest
from orchestrator.errors import DataError
from orchestrator.spec import Task


@dataclass(frozen=True)
class Present:
    """A task in a store: its fingerprint as a final trial sees it, or what is the `problem`."""

    task: str
    fingerprint: str = ""
    problem: str = ""


def presence(suite: str, tasks: Sequence[Task], root: Path) -> tuple[Present, ...]:
    """Every task of the suite (by its `store` name) in the store at `root`; nothing is raised.

    A pool would refuse the task if its fingerprint is not the sweep's; here files are looked at for
    their sizes only.
    """
    return tuple(_present(suite, task, root) for task in tasks)


def _present(suite: str, task: Task, root: Path) -> Present:
    folder = root / suite / task.name
    manifest = Manifest.read(folder)
    if manifest is None:
        return Present(task.name, problem="partial" if folder.exists() else "missing")
    if not manifest.fits(task):
        return Present(task.name, problem="of another version")
    try:
        for name in SPLITS:
            store.check_size(folder, name, manifest)
    except DataError:
        return Present(task.name, problem="damaged")
    return Present(task.name, manifest.identity.final)
