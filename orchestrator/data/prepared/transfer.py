"""Prepared tasks copied through the sweep's object store, for machines without shared folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.data.listing import SPLITS
from orchestrator.data.prepared.store import MANIFEST, Manifest
from orchestrator.spec import Suite, Task, Trial
from orchestrator.storage.files import locked
from orchestrator.storage.sweep_storage import SweepStorage


def upload(storage: SweepStorage, suite: Suite, tasks: Iterable[Task], root: Path) -> list[str]:
    """Upload the prepared tasks at `root` that the sweep's object store lacks; their names.

    Does nothing where the sweep's storage is a plain folder.
    """
    sent = []
    for task in tasks if storage.store is not None else ():
        source, target = root / suite.store / task.name, _folder(storage, suite, task)
        storage.download(target / MANIFEST)
        if Manifest.read(target) != Manifest.read(source):
            names = [f"{split}.arrow" for split in SPLITS]
            storage.upload_from(source, target, *names, MANIFEST)
            sent.append(task.name)
    return sent


def local_root(storage: SweepStorage, suite: Suite, task: Task, trial: Trial, root: Path) -> Path:
    """The root below which this machine has the images that a trial reads.

    That is `root`, or the sweep's folder, into which the task is downloaded; its test split only
    if the trial reads it. If neither has it, opening the task raises the error.
    """
    splits = SPLITS if trial.reads_test else SPLITS[:2]
    if storage.store is None or _has(root / suite.store / task.name, trial, splits):
        return root
    folder = _folder(storage, suite, task)
    with locked(folder / ".lock"):  # the pools of a machine download a task once
        if not _has(folder, trial, splits):
            _download(storage, folder, splits)
    return storage.paths.data


def _download(storage: SweepStorage, folder: Path, splits: Iterable[str]) -> None:
    before = Manifest.read(folder)
    storage.download(folder / MANIFEST)
    if Manifest.read(folder) != before:  # prepared anew: the files here are outdated
        for split in SPLITS:
            (folder / f"{split}.arrow").unlink(missing_ok=True)
    storage.download(
        *(path for split in splits if not (path := folder / f"{split}.arrow").exists())
    )


def _folder(storage: SweepStorage, suite: Suite, task: Task) -> Path:
    return storage.paths.data / suite.store / task.name


def _has(folder: Path, trial: Trial, splits: Sequence[str]) -> bool:
    manifest = Manifest.read(folder)
    if manifest is None or not trial.reads(manifest.identity):
        return False
    return all((folder / f"{split}.arrow").exists() for split in splits)
