"""Prepared tasks on disk, read: found, checked and mapped.

<root>/<suite>/<task>/train.arrow, val.arrow, test.arrow, manifest.json
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.data import arrow
from orchestrator.data.manifest import SPLITS, Manifest
from orchestrator.errors import DataError
from orchestrator.spec import DataIdentity, Task


def default_root() -> Path:
    """`$ORCHESTRATE_DATA`, or `~/.cache/orchestrate/data`."""
    named = os.environ.get("ORCHESTRATE_DATA")
    return Path(named) if named else Path.home() / ".cache" / "orchestrate" / "data"


def identity(suite: str, task: Task, root: Path) -> DataIdentity:
    """The fingerprints of a prepared task, as its manifest states them."""
    return manifest_of(suite, task, root).identity


def verify(suite: str, task: Task, root: Path) -> None:
    """Read every byte of a prepared task; `DataError` if any differs from its fingerprint."""
    manifest = manifest_of(suite, task, root)
    for name in SPLITS:
        images, labels = load(root / suite / task.name, name, manifest)
        if arrow.fingerprint(images, labels) != manifest.splits[name].fingerprint:
            raise damaged(root / suite / task.name, name, "its content has another fingerprint")


def manifest_of(suite: str, task: Task, root: Path) -> Manifest:
    """The manifest of a prepared task; `DataError` if it is missing, partial or outdated."""
    folder = root / suite / task.name
    manifest = Manifest.read(folder)
    if manifest is None or not manifest.fits(task):
        how = "" if manifest is None else " as the suite describes it"
        raise DataError(
            f"the data of task '{suite}/{task.name}' is not prepared in '{folder}'{how}. Run the "
            "sweep again: it is made on first use."
        )
    return manifest


def load(folder: Path, name: str, manifest: Manifest) -> tuple[arrow.Images, arrow.Labels]:
    """Images (N, H, W, 3), a view of the file, and labels (N,); `DataError` if damaged."""
    check_size(folder, name, manifest)
    try:
        images, labels = arrow.read(folder / f"{name}.arrow", manifest.classes)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from error
    if len(images) != manifest.splits[name].images:
        raise damaged(folder, name, f"it has {len(images)} images")
    return images, labels


def check_size(folder: Path, name: str, manifest: Manifest) -> None:
    """`DataError` unless the split's file is there with the size it was written with."""
    try:
        size = (folder / f"{name}.arrow").stat().st_size
    except OSError as error:
        raise damaged(folder, name, str(error.strerror)) from error
    wanted = manifest.splits[name].bytes
    if size != wanted:
        raise damaged(folder, name, f"it has {size} bytes instead of {wanted}")


def damaged(folder: Path, name: str, why: str) -> DataError:
    """The error for a split that cannot be used."""
    return DataError(
        f"'{folder / name}.arrow' is damaged: {why}. Delete the folder '{folder}' and run the same "
        "command again: it is made again."
    )
