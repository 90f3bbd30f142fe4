"""Tasks prepared on disk: once, whole or absent, shared by every sweep on the machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from orchestrator.data import Progress, require_space
from orchestrator.data.images import map_ahead
from orchestrator.data.listing import SPLITS
from orchestrator.data.prepared import arrow
from orchestrator.data.prepared.sources import (
    ListedSource,
    Source,
    Tick,
    find_source,
    problem_report,
)
from orchestrator.data.prepared.store import Manifest, SplitRecord, check, check_sizes
from orchestrator.errors import DataError
from orchestrator.spec import Suite, Task, digest
from orchestrator.storage.files import locked, make_folder, read_json, sync_folder, write_whole

_CHECKS = 2
"""Raised with every check that is added to `data/checks.py`."""


def prepare_tasks(
    suite: Suite,
    tasks: Sequence[Task],
    root: Path,
    raw: Path | None,
    progress: Progress = lambda *_: None,
) -> dict[str, Manifest]:
    """Prepare tasks in the store at `root`, if there is space for all of them.

    `raw` is the suite's folder of images; without one, what was prepared before is used. Prepared
    files are compared with their fingerprints. Problems of single tasks are reported together,
    after the others are prepared. Raises `DataError` as `prepare`, for a task that is neither
    prepared nor has a source, and for damaged files.
    """
    found: dict[str, Manifest] = {}
    sources: dict[str, Source] = {}
    problems: dict[str, str] = {}
    for task in tasks:
        with _collected(problems, task):
            state = _found(suite, task, root, raw)
            if isinstance(state, Manifest):
                found[task.name] = state
            else:
                sources[task.name] = state

    def check_content(task: Task) -> None:
        with _collected(problems, task):
            check(suite.store, task, root)

    list(map_ahead(check_content, [suite.task(name) for name in found]))
    sizes = (source.size(name) for source in sources.values() for name in SPLITS)
    _require_space(root / suite.store, sum(sizes))
    for name, source in sources.items():
        task = suite.task(name)
        with _collected(problems, task):
            tick = _counter(f"{suite.name}/{name}", source.count(), progress)
            found[name] = prepare(suite, task, source, root, tick)
    whole = {task.name: found[task.name] for task in tasks if task.name not in problems}
    if problems:
        raise DataError(_unusable(suite, problems, len(tasks), f"; prepared: {len(whole)}"))
    return whole


def check_sources(suite: Suite, tasks: Sequence[Task], root: Path, raw: Path | None) -> None:
    """`DataError` with what `prepare_tasks` would find missing or wrong before it reads an image.

    Arguments as those of `prepare_tasks`.
    """
    problems: dict[str, str] = {}
    for task in tasks:
        with _collected(problems, task):
            _found(suite, task, root, raw)
    if problems:
        raise DataError(_unusable(suite, problems, len(tasks)))


def _found(suite: Suite, task: Task, root: Path, raw: Path | None) -> Manifest | Source:
    """The task as it is prepared, or what to prepare it from; `DataError` without either."""
    source = _source(suite, task, root, raw)
    state = None if source is None else _state_of(_states(source))
    manifest = current(suite, task, root, state)
    if manifest is not None:
        return manifest
    if source is None:
        raise DataError(_no_images(suite, task, root))
    return source


def _source(suite: Suite, task: Task, root: Path, raw: Path | None) -> Source | None:
    """What to prepare the task from; None to use it as it is prepared: there are no images."""
    source = find_source(suite, task, raw)
    if isinstance(source, ListedSource):
        if source.listing.empty and current(suite, task, root) is not None:
            return None
        if source.listing.problems:
            raise DataError(problem_report(f"{suite.name}/{task.name}", source.listing.problems))
    return source


def _states(source: Source) -> dict[str, str]:
    """The state of each split, and of what the listing notes."""
    notes = source.listing.notes if isinstance(source, ListedSource) else ()
    return {**{name: source.state(name) for name in SPLITS}, "notes": digest(list(notes))}


def _state_of(states: Mapping[str, str]) -> str:
    """The state of a whole source: what was prepared under fewer checks is checked again."""
    return digest([_CHECKS, dict(states)])


@contextmanager
def _collected(problems: dict[str, str], task: Task) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        problems[task.name] = str(error)


def _counter(what: str, total: int, progress: Progress) -> Tick:
    done = count(1)
    return lambda: progress(what, next(done), total)


def deviations(suite: Suite, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for each task whose numbers of images, by split, are not the benchmark's."""
    found = []
    for name, own in counts.items():
        parts = [
            f"{split} {own[split]:,} instead of {wanted:,}"
            for split in SPLITS
            if (wanted := getattr(suite.task(name), split)) not in (None, own[split])
        ]
        if parts:
            found.append(
                f"{name} has other numbers of images than {suite.name}: {', '.join(parts)}"
            )
    return found


def current(suite: Suite, task: Task, root: Path, state: str | None = None) -> Manifest | None:
    """The task's manifest if it is prepared, from a source in that state where one is given.

    `DataError` if a file of it is missing or has another size and there is no source to prepare it
    from again.
    """
    folder = root / suite.store / task.name
    manifest = Manifest.read(folder)
    if manifest is None or not manifest.fits(task, suite) or state not in (None, manifest.source):
        return None
    try:
        check_sizes(folder, manifest)
    except DataError:
        if state is None:
            raise
        return None
    return manifest


def prepare(
    suite: Suite, task: Task, source: Source, root: Path, tick: Tick = lambda: None
) -> Manifest:
    """Prepare a task if it is not prepared or its source has changed; returns its manifest.

    Waits for another process that prepares the same task. Splits that an interrupted command
    finished are kept.

    Raises `DataError` if the source's images are not what the task says, or the disk is full or
    cannot be written.
    """
    folder = root / suite.store / task.name
    try:
        states = _states(source)
        found = current(suite, task, root, _state_of(states))
        if found is None:
            with locked(folder.parent / f".{folder.name}.lock"):
                found = current(suite, task, root, _state_of(states)) or _make(
                    suite, task, source, folder, states, tick
                )
        return found
    except OSError as error:
        raise DataError(
            f"cannot prepare data in '{root}': {error}. Free some space or make it writable, or "
            "name another folder with --data-root or in the variable ORCHESTRATE_DATA; what is "
            "finished is kept."
        ) from error


def _make(
    suite: Suite, task: Task, source: Source, folder: Path, states: Mapping[str, str], tick: Tick
) -> Manifest:
    draft = folder.parent / f".{folder.name}.draft"
    make_folder(draft)
    # A split's own state says what it is made from and how: drafts of other commands may differ.
    own = {n: digest([s, arrow.VERSION, task.classes, suite.side]) for n, s in states.items()}
    done = {name: record for name in SPLITS if (record := _finished(draft, name, own[name]))}
    _require_space(draft, sum(source.size(name) for name in SPLITS if name not in done))
    problems: list[str] = []
    for name in (name for name in SPLITS if name not in done):
        record = _make_split(source, name, folder, draft, own[name], problems, tick)
        if record is not None:
            done[name] = record
    found = source.check()
    problems += found.errors
    if problems:
        raise DataError(problem_report(f"{suite.name}/{task.name}", problems))
    shape = (task.classes, suite.side, suite.view)
    manifest = Manifest(arrow.VERSION, _state_of(states), *shape, done, source.names())
    # Every command that uses the task tells of its numbers of images by itself.
    differing = deviations(suite, {task.name: manifest.counts})
    manifest = replace(manifest, notes=(*found.notes, *(() if differing else found.deviations)))
    for name in SPLITS:
        (draft / f"{name}.json").unlink()
    manifest.write(draft)
    _replace(folder, draft)
    return manifest


def _make_split(
    source: Source,
    name: str,
    folder: Path,
    draft: Path,
    state: str,
    problems: list[str],
    tick: Tick,
) -> SplitRecord | None:
    """A split in the draft, with its record; None, with problems and no file, if it is wrong."""
    path, record_path = draft / f"{name}.arrow", draft / f"{name}.json"
    for old in (record_path, path):
        old.unlink(missing_ok=True)
    made = None
    try:
        made = _link_shared(folder, path, state) or source.write(name, path, problems, tick)
    finally:
        if made is None:
            path.unlink(missing_ok=True)
    if made is None:
        return None
    record = replace(made, state=state)
    # Written last: a split that has a record is complete.
    write_whole(record_path, json.dumps(asdict(record)).encode())
    return record


def _link_shared(folder: Path, target: Path, state: str) -> SplitRecord | None:
    """The same split of another task, linked: few-shot draws share val and test."""
    for path in folder.parent.glob(f"[!.]*/{target.name}"):
        manifest = Manifest.read(path.parent)
        record = manifest and manifest.splits[target.stem]
        if record and record.state == state and path.stat().st_size == record.bytes:
            try:
                os.link(path, target)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, target)
            return record
    return None


def _finished(draft: Path, name: str, state: str) -> SplitRecord | None:
    """The record of a split that an interrupted command finished, from the same source."""
    try:
        record = SplitRecord(**read_json(draft / f"{name}.json"))
        whole = (draft / f"{name}.arrow").stat().st_size == record.bytes
        return record if whole and record.state == state else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _replace(folder: Path, draft: Path) -> None:
    """Rename the draft to the folder; what is mapped from an old folder stays readable."""
    old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.old"
    if folder.exists():
        os.rename(folder, old)
    os.rename(draft, folder)
    sync_folder(folder.parent)
    for gone in folder.parent.glob(f".{folder.name}.*.old"):
        shutil.rmtree(gone, ignore_errors=True)


def _require_space(folder: Path, size: int) -> None:
    """`DataError` unless about `size` bytes are free where a folder is or will be."""
    option = "--data-root or in the variable ORCHESTRATE_DATA"
    require_space(folder, size + size // 50, "preparing", option)


def _unusable(suite: Suite, problems: Mapping[str, str], total: int, kept: str = "") -> str:
    if total == 1:
        return next(iter(problems.values()))
    shown = "\n".join(dict.fromkeys(problems.values()))
    kept = kept if len(problems) < total else ""
    return (
        f"{len(problems)} of {total} tasks of '{suite.name}' cannot be used "
        f"({', '.join(problems)}){kept}.\n{shown}\nRepair them, or leave them out with --tasks."
    )


def _no_images(suite: Suite, task: Task, root: Path) -> str:
    return (
        f"the data of '{suite.name}/{task.name}' is not prepared in '{root}', and there is no "
        f"folder of images to prepare it from. Name it with --suite-root or in the variable "
        f"{suite.variable}, or get it: `orchestrate data fetch {suite.name} --from SOURCE`."
    )
