"""Prepared tasks on disk, read: found, checked and mapped.

<root>/<suite>/<task>/train.arrow, val.arrow, test.arrow, manifest.json

The manifest is written last: a folder that has one is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.data.listing import SPLITS
from orchestrator.data.prepared import arrow
from orchestrator.errors import DataError
from orchestrator.spec import VIEWS, DataIdentity, Suite, Task, digest
from orchestrator.storage.files import read_json, write_whole

MANIFEST = "manifest.json"
Content = TypeVar("Content", bound=tuple[Any, ...])
"""What a file holds: images, labels, and sizes if the images are decoded."""


@dataclass(frozen=True)
class SplitRecord:
    """What `<split>.arrow` must be: number of images, file size in bytes, content fingerprint.

    `encoded` images are decoded when they are read. `state` is that of the source it was made from.
    """

    images: int
    bytes: int
    fingerprint: str
    encoded: bool = False
    state: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.images, int) and isinstance(self.bytes, int)):
            raise TypeError("images and bytes are numbers")


@dataclass(frozen=True)
class Manifest:
    """A prepared task. `source` is the state of the source it was made from: when that changes,
    the task is prepared again. `side` and `view` as in `Suite`.
    """

    version: str
    source: str
    classes: int
    side: int
    view: str
    splits: Mapping[str, SplitRecord]
    names: tuple[str, ...] = ()
    """Names of the classes by label, where the source has them."""
    notes: tuple[str, ...] = ()
    """What a person should know of the images: sentences."""

    @property
    def identity(self) -> DataIdentity:
        """Fingerprints of what search may see and of the test split."""
        train, val, test = (self.splits[name].fingerprint for name in SPLITS)
        common = [self.classes, self.side, self.view]
        return DataIdentity(digest([*common, train, val]), digest([*common, test]))

    @property
    def counts(self) -> dict[str, int]:
        """Images by split."""
        return {name: self.splits[name].images for name in SPLITS}

    def fits(self, task: Task, suite: Suite | None = None) -> bool:
        """Whether it is in this format, of that task, prepared as the suite wants it."""
        same = suite is None or (suite.side, suite.view) == (self.side, self.view)
        return same and (self.version, self.classes) == (arrow.VERSION, task.classes)

    def write(self, folder: Path) -> None:
        """Write it into `folder`, through to the disk."""
        text = json.dumps({**asdict(self), "identity": asdict(self.identity)}, indent=1)
        write_whole(folder / MANIFEST, text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a complete folder; None if it is absent or invalid."""
        try:
            content = read_json(folder / MANIFEST)
            identity, names = content.pop("identity"), tuple(content.pop("names"))
            notes = tuple(content.pop("notes", ()))
            splits = content.pop("splits")
            records = {name: SplitRecord(**splits[name]) for name in SPLITS}
            manifest = cls(**content, splits=records, names=names, notes=notes)
            valid = manifest.view in VIEWS and asdict(manifest.identity) == identity
            return manifest if valid else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True)
class Present:
    """A task in a store: its fingerprint as a final trial sees it, or what is the `problem`."""

    task: str
    fingerprint: str = ""
    problem: str = ""


def default_root() -> Path:
    """`$ORCHESTRATE_DATA`, or `~/.cache/orchestrate/data`."""
    named = os.environ.get("ORCHESTRATE_DATA")
    return Path(named) if named else Path.home() / ".cache" / "orchestrate" / "data"


def manifest_of(suite: str, task: Task, root: Path) -> Manifest:
    """The manifest of a prepared task; `DataError` if it is missing, partial or outdated."""
    folder = root / suite / task.name
    manifest = Manifest.read(folder)
    if manifest is None or not manifest.fits(task):
        how = "" if manifest is None else " as the suite describes it"
        raise DataError(
            f"the data of task '{suite}/{task.name}' is not prepared in '{folder}'{how}. Run the "
            "sweep again: it is prepared on first use."
        )
    return manifest


def presence(suite: str, tasks: Sequence[Task], root: Path) -> tuple[Present, ...]:
    """Which tasks of a suite (by its `store` name) are in the store at `root`; raises nothing.

    Of the files only the sizes are checked.
    """
    return tuple(_present(root / suite / task.name, task) for task in tasks)


def _present(folder: Path, task: Task) -> Present:
    manifest = Manifest.read(folder)
    if manifest is None:
        return Present(task.name, problem="partial" if folder.exists() else "missing")
    if not manifest.fits(task):
        return Present(task.name, problem="of another version")
    try:
        check_sizes(folder, manifest)
    except DataError:
        return Present(task.name, problem="damaged")
    return Present(task.name, manifest.identity.final)


def check(suite: str, task: Task, root: Path) -> None:
    """Read every byte of a prepared task; `DataError` if any differs from its fingerprint."""
    manifest = manifest_of(suite, task, root)
    folder = root / suite / task.name
    for name, record in manifest.splits.items():
        if record.encoded:
            found = arrow.encoded_fingerprint(*load_encoded(folder, name, manifest))
        else:
            found = arrow.fingerprint(*load_pixels(folder, name, manifest))
        if found != record.fingerprint:
            raise _damaged(folder, name, "its content has another fingerprint")


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """`DataError` unless every split's file is there with the size it was written with."""
    for name in manifest.splits:
        _check_size(folder, name, manifest)


def load_pixels(
    folder: Path, name: str, manifest: Manifest
) -> tuple[arrow.Images, arrow.Labels, arrow.Sizes]:
    """Images (N, side, side, 3), a view of the file, labels (N,), sizes (N, 2).

    `DataError` if the file is damaged.
    """
    return _read(arrow.read_pixels, folder, name, manifest)


def load_encoded(folder: Path, name: str, manifest: Manifest) -> tuple[list[Any], arrow.Labels]:
    """Arrow columns of encoded images, views of the file, and labels; `DataError` if damaged."""
    return _read(arrow.read_encoded, folder, name, manifest)


def _read(
    reader: Callable[[Path, int], Content], folder: Path, name: str, manifest: Manifest
) -> Content:
    _check_size(folder, name, manifest)
    try:
        content = reader(folder / f"{name}.arrow", manifest.classes)
    except ValueError as error:
        raise _damaged(folder, name, str(error)) from error
    if len(content[1]) != manifest.splits[name].images:
        raise _damaged(folder, name, f"it has {len(content[1])} images")
    return content


def _check_size(folder: Path, name: str, manifest: Manifest) -> None:
    try:
        size = (folder / f"{name}.arrow").stat().st_size
    except OSError as error:
        raise _damaged(folder, name, str(error.strerror)) from error
    wanted = manifest.splits[name].bytes
    if size != wanted:
        raise _damaged(folder, name, f"it has {size} bytes instead of {wanted}")


def _damaged(folder: Path, name: str, why: str) -> DataError:
    return DataError(
        f"'{folder / name}.arrow' is damaged: {why}. Delete the folder '{folder}' and run the same "
        "command again: the task is prepared again."
    )
