"""Prepared tasks on disk, read: found, checked and mapped.

<root>/<suite>/<task>/train.arrow, val.arrow, test.arrow, manifest.json
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.manifest import SPLITS, Manifest
from orchestrator.errors import DataError
from orchestrator.spec import DataIdentity, Task


def default_root() -> Path:
    """`$ORCHESTRATE_DATA`, or `~/.cache/orchestrate/data`."""
    named = os.environ.get("ORCHESTRATE_DATA")
    return Path(named) if named else Path.home() / ".cache" / "orchestrate" / "data"


def identity(suite: str, task: Task, root: Path) -> DataIdentity:
    """The fingerprints of a prepared task, as its manifest states them."""
    return manifest_of(suite, task, root).identity


def check(suite: str, task: Task, root: Path) -> None:
    """Read every byte of a prepared task; `DataError` if any differs from its fingerprint."""
    manifest = manifest_of(suite, task, root)
    for name in SPLITS:
        folder = root / suite / task.name
        if _fingerprint(folder, name, manifest) != manifest.splits[name].fingerprint:
            raise damaged(folder, name, "its content has another fingerprint")


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


def load_pixels(
    folder: Path, name: str, manifest: Manifest
) -> tuple[arrow.Images, arrow.Labels, arrow.Sizes]:
    """Images (N, side, side, 3), a view of the file, labels (N,), sizes (N, 2).

    `DataError` if the file is damaged.
    """
    check_size(folder, name, manifest)
    try:
        images, labels, sizes = arrow.read_pixels(folder / f"{name}.arrow", manifest.classes)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from error
    _check_count(folder, name, manifest, len(images), len(labels))
    return images, labels, sizes


def load_encoded(folder: Path, name: str, manifest: Manifest) -> tuple[list[Any], arrow.Labels]:
    """Arrow columns of encoded images, views of the file, and labels; `DataError` if damaged."""
    check_size(folder, name, manifest)
    try:
        columns, labels = arrow.read_encoded(folder / f"{name}.arrow", manifest.classes)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from error
    _check_count(folder, name, manifest, sum(map(len, columns)), len(labels))
    return columns, labels


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


def _check_count(folder: Path, name: str, manifest: Manifest, images: int, labels: int) -> None:
    if not images == labels == manifest.splits[name].images:
        raise damaged(folder, name, f"it has {images} images")


def _fingerprint(folder: Path, name: str, manifest: Manifest) -> str:
    if manifest.splits[name].encoded:
        columns, labels = load_encoded(folder, name, manifest)
        return arrow.encoded_fingerprint(columns, labels)
    images, labels, sizes = load_pixels(folder, name, manifest)
    return arrow.fingerprint(images, labels, sizes)
