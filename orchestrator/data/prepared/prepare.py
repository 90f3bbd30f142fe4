"""Prepared tasks on disk, made: once, whole or absent, shared by every sweep on the machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.manifest import SPLITS, Manifest, SplitRecord
from orchestrator.data.prepared.origins import Origin, Tick
from orchestrator.data.prepared.store import check_size
from orchestrator.errors import DataError
from orchestrator.spec import Suite, Task, digest
from orchestrator.storage.files import locked, make_folder, sync_folder, write_whole


def current(suite: Suite, task: Task, root: Path, state: str | None = None) -> Manifest | None:
    """The task's manifest if it is prepared, from an origin in that state where one is given.

    `DataError` if a file of it is missing or has another size, and there is no origin to make it
    again from.
    """
    folder = root / suite.store / task.name
    manifest = Manifest.read(folder)
    if manifest is None or not manifest.fits(task, suite) or state not in (None, manifest.source):
        return None
    try:
        for name in SPLITS:
            check_size(folder, name, manifest)
    except DataError:
        if state is None:
            raise
        return None
    return manifest


def prepare(
    suite: Suite, task: Task, origin: Origin, root: Path, tick: Tick = lambda: None
) -> Manifest:
    """Make the task's folder if it is not there or its origin has changed, and say what is in it.

    Another process that prepares the same task is waited for. Splits that an interrupted command
    finished are not made again.

    Raises `DataError` when the origin has something else than the task promises, the folder is
    damaged, or the disk is full or cannot be written.
    """
    with _explained(root):
        states = {name: origin.state(name) for name in SPLITS}
        found = current(suite, task, root, digest(states))
        if found is None:
            with locked(root / suite.store / f".{task.name}.lock"):
                found = current(suite, task, root, digest(states)) or _make(
                    suite, task, origin, root, states, tick
                )
        return found


def _make(
    suite: Suite, task: Task, origin: Origin, root: Path, states: Mapping[str, str], tick: Tick
) -> Manifest:
    folder = root / suite.store / task.name
    draft = folder.parent / f".{folder.name}.draft"
    make_folder(draft)
    # What a split is made of and how: a draft of another command may be of another kind.
    own = {n: digest([s, arrow.VERSION, task.classes, suite.side]) for n, s in states.items()}
    done = {name: record for name in SPLITS if (record := _finished(draft, name, own[name]))}
    require_space(draft, sum(origin.size(name) for name in SPLITS if name not in done))
    for name in SPLITS:
        if name not in done:
            done[name] = _shared(folder, draft, name, own[name]) or _split(
                draft, name, own[name], origin, tick
            )
    manifest = Manifest(
        arrow.VERSION,
        digest(states),
        task.classes,
        suite.side,
        suite.view,
        done,
        origin.names(),
    )
    for name in SPLITS:
        _record(draft, name).unlink()
    manifest.write(draft)
    _replace(folder, draft)
    return manifest


def _split(draft: Path, name: str, state: str, origin: Origin, tick: Tick) -> SplitRecord:
    """Writes a split and then its record, which says that it is whole."""
    path = draft / f"{name}.arrow"
    for old in (_record(draft, name), path):
        old.unlink(missing_ok=True)
    try:
        record = replace(origin.write(name, path, tick), state=state)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    write_whole(_record(draft, name), json.dumps(asdict(record)).encode())
    return record


def _shared(folder: Path, draft: Path, name: str, state: str) -> SplitRecord | None:
    """The same split of another task, linked: few-shot draws share val and test."""
    for path in folder.parent.glob(f"[!.]*/{name}.arrow"):
        manifest = Manifest.read(path.parent)
        record = manifest and manifest.splits[name]
        if record and record.state == state and path.stat().st_size == record.bytes:
            (draft / f"{name}.arrow").unlink(missing_ok=True)
            os.link(path, draft / f"{name}.arrow")
            write_whole(_record(draft, name), json.dumps(asdict(record)).encode())
            return record
    return None


def _finished(draft: Path, name: str, state: str) -> SplitRecord | None:
    """The record of a split that an interrupted command finished, from the same files."""
    try:
        record = SplitRecord(**json.loads(_record(draft, name).read_bytes()))
        whole = (draft / f"{name}.arrow").stat().st_size == record.bytes
        return record if whole and record.state == state else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _record(draft: Path, name: str) -> Path:
    return draft / f"{name}.json"


def _replace(folder: Path, draft: Path) -> None:
    """Put the draft in the folder's place; what is mapped from the old one stays readable."""
    old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.old"
    if folder.exists():
        os.rename(folder, old)
    os.rename(draft, folder)
    sync_folder(folder.parent)
    for gone in folder.parent.glob(f".{folder.name}.*.old"):
        shutil.rmtree(gone, ignore_errors=True)


def require_space(folder: Path, size: int) -> None:
    """`DataError` unless about `size` bytes are free where a folder is or will be."""
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    needed, free = size + size // 50 + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"preparing needs {needed / 2**20:,.0f} MiB in '{folder}', but only "
            f"{free / 2**20:,.0f} MiB are free. Free some, or name another folder with --data-root "
            "or in the variable ORCHESTRATE_DATA."
        )


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot prepare data in '{root}': {error}. Make room or make it writable, or name "
            "another folder with --data-root or in the variable ORCHESTRATE_DATA; what is finished "
            "is kept."
        ) from error
