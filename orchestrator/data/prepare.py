"""Prepared tasks on disk, made: once, whole or absent, shared by every sweep on the machine."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data import arrow
from orchestrator.data.manifest import SPLITS, Manifest, SplitRecord
from orchestrator.data.store import check_size
from orchestrator.errors import DataError
from orchestrator.files import make_folder, sync_folder
from orchestrator.spec import DataIdentity, Task

Arrays = Mapping[str, tuple[Any, Any]]
"""Split name → images (N, H, W, 3) uint8 and integer labels (N,)."""


def prepare(
    suite: str, task: Task, make: Callable[[], Arrays], root: Path, source: str = ""
) -> DataIdentity:
    """Make the task's folder if it is not there, and say what is in it.

    Args:
        suite: the suite's name, a folder of the store.
        task: what the data must be: classes and counts.
        make: gives the three splits; called only if the folder is missing or outdated.
        root: the store; another process that prepares the same task is waited for.
        source: what `make` depends on; a folder of another source is made again.

    Raises `DataError` when `make` gives something else than `task` promises, the folder is
    damaged, or the disk is full or cannot be written.
    """
    folder = root / suite / task.name
    manifest = _current(folder, task, source)
    if manifest is None:
        with _explained(root), _lock(folder):
            manifest = _current(folder, task, source) or _make(folder, task, make(), source)
    for name in SPLITS:
        check_size(folder, name, manifest)
    return manifest.identity


def _current(folder: Path, task: Task, source: str) -> Manifest | None:
    manifest = Manifest.read(folder)
    fits = manifest is not None and manifest.source == source and manifest.fits(task)
    return manifest if fits else None


def _make(folder: Path, task: Task, arrays: Arrays, source: str) -> Manifest:
    splits = {name: _checked(task, name, arrays) for name in SPLITS}
    shapes = {images.shape[1:] for images, _ in splits.values()}
    if len(shapes) > 1:
        raise DataError(f"the splits of task '{task.name}' differ in image size: {shapes}.")
    _require_space(folder.parent, sum(images.nbytes for images, _ in splits.values()))
    _remove_drafts(folder)
    draft = folder.parent / f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        manifest = _write(draft, task, splits, source)
        _replace(folder, draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _write(
    draft: Path, task: Task, splits: Mapping[str, tuple[arrow.Images, arrow.Labels]], source: str
) -> Manifest:
    records = {}
    for name, (images, labels) in splits.items():
        path = draft / f"{name}.arrow"
        arrow.write(path, images, labels, task.classes)
        records[name] = SplitRecord(
            len(images), path.stat().st_size, arrow.fingerprint(images, labels)
        )
    manifest = Manifest(arrow.VERSION, source, task.classes, records)
    manifest.write(draft)
    return manifest


def _replace(folder: Path, draft: Path) -> None:
    """Put the draft in the folder's place; what is mapped from the old one stays readable."""
    old = draft.with_name(f"{draft.name}.old")
    if folder.exists():
        os.rename(folder, old)
    os.rename(draft, folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_drafts(folder: Path) -> None:
    """Delete what killed processes left; the lock says that nobody works on it."""
    for draft in folder.parent.glob(f".{folder.name}.*.*"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)


def _checked(task: Task, name: str, arrays: Arrays) -> tuple[arrow.Images, arrow.Labels]:
    what = f"the {name} split of task '{task.name}'"
    if name not in arrays:
        raise DataError(f"{what} is missing; its source gives {', '.join(arrays) or 'nothing'}.")
    images, labels = np.asarray(arrays[name][0]), np.asarray(arrays[name][1])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(
            f"{what} has images {images.shape} {images.dtype}; allowed: (N, H, W, 3) uint8."
        )
    count = getattr(task, name)
    if len(images) != count or labels.shape != (count,):
        raise DataError(
            f"{what} has {len(images)} images and labels {labels.shape}; the suite says {count}."
        )
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or not np.isin(labels, range(task.classes)).all():
        raise DataError(f"{what} has labels that are not integers in 0…{task.classes - 1}.")
    return images, labels.astype(np.int64)


def _require_space(folder: Path, size: int) -> None:
    needed, free = size + size // 50 + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"preparing needs {needed / 2**20:.0f} MiB in '{folder}', but only "
            f"{free / 2**20:.0f} MiB are free. Free some, or name another folder "
            "in the variable ORCHESTRATE_DATA."
        )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Exclusive between processes; waits for the one that prepares the same task."""
    make_folder(folder.parent)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot prepare data in '{root}': {error}. Make it writable, or name another folder "
            "in the variable ORCHESTRATE_DATA."
        ) from error
