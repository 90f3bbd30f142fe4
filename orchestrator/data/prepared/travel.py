"""Prepared tasks on their way to machines that share nothing with the command but a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.data.prepared.manifest import NAME, SPLITS, Manifest
from orchestrator.spec import Suite, Task
from orchestrator.storage.files import locked
from orchestrator.storage.sweep_storage import SweepStorage

SEARCH = SPLITS[:2]
"""The splits that search may see."""


def publish(storage: SweepStorage, suite: Suite, tasks: Iterable[Task], root: Path) -> list[str]:
    """Puts prepared tasks of the store at `root` into `home`, as far as it lacks them; their names.

    Nothing where the home is a plain folder.
    """
    sent = []
    for task in tasks if storage.store is not None else ():
        source, target = root / suite.store / task.name, _folder(storage, suite, task)
        storage.download(target / NAME)
        if Manifest.read(target) != Manifest.read(source):
            names = [f"{split}.arrow" for split in SPLITS]
            storage.upload_from(source, target, *names, NAME)
            sent.append(task.name)
    return sent


def root_of(
    storage: SweepStorage, suite: Suite, task: Task, wanted: str, test: bool, root: Path
) -> Path:
    """Where this machine has a task with the identity `wanted`: at `root`, or fetched from `home`.

    The test split is fetched only where `test` asks for it. What cannot be had is found missing by
    whoever opens it.
    """
    splits = SPLITS if test else SEARCH
    if storage.store is None or _has(root / suite.store / task.name, wanted, splits):
        return root
    folder = _folder(storage, suite, task)
    with locked(folder / ".lock"):  # the pools of a machine fetch a task once
        if not _has(folder, wanted, splits):
            _fetch(storage, folder, splits)
    return storage.paths.data


def _fetch(storage: SweepStorage, folder: Path, splits: Iterable[str]) -> None:
    before = Manifest.read(folder)
    storage.download(folder / NAME)
    if Manifest.read(folder) != before:
        for split in SPLITS:
            (folder / f"{split}.arrow").unlink(missing_ok=True)
    storage.download(
        *(path for split in splits if not (path := folder / f"{split}.arrow").exists())
    )


def _folder(storage: SweepStorage, suite: Suite, task: Task) -> Path:
    return storage.paths.data / suite.store / task.name


def _has(folder: Path, wanted: str, splits: Sequence[str]) -> bool:
    manifest = Manifest.read(folder)
    if manifest is None or wanted not in (manifest.identity.search, manifest.identity.final):
        return False
    return all((folder / f"{split}.arrow").exists() for split in splits)
