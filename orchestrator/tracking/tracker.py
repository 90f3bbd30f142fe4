"""Writes ledger rows as MLflow runs: sweep → study → trial, exactly one run per key.

Every write may be cut off at any point. A run has its key from its creation and a completion mark
after its last point. A run without the mark is written again, to the same run and with the same
times, so that no point is duplicated.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from filelock import Timeout

from orchestrator.errors import TrackingError
from orchestrator.results.sweep_file import SweepFile
from orchestrator.results.throughput import Window
from orchestrator.spec import TrialResult
from orchestrator.storage.files import acquire, read_file, reason
from orchestrator.tracking.records import (
    Measure,
    RunRecord,
    milliseconds,
    study_key,
    study_record,
    study_summary,
    sweep_record,
    sweep_summary,
    system_measures,
    trial_record,
)

SWEEP, RUNNING = "sweep", "RUNNING"
ARTIFACTS = ("report.html", "registry")
LOCK = ".lock-tracking"


@dataclass(frozen=True)
class Run:
    """A run as the store has it. `complete`: it has its record up to the last point."""

    id: str
    key: str
    parent: str | None
    version: str
    complete: bool
    status: str
    tags: Mapping[str, str]
    latest: Mapping[str, float]
    artifacts: str = ""

    @property
    def running(self) -> bool:
        """Whether the store shows it as not ended."""
        return self.status == RUNNING


class Store(Protocol):
    """The MLflow operations that `Tracker` needs, on the runs of one sweep; see `MlflowStore`.

    Every failure is a `TrackingError`.
    """

    def runs(self) -> list[Run]:
        """Every run of the sweep, oldest first."""

    def create(self, record: RunRecord, parent: str | None) -> str:
        """Create a running run with key, version and tags in one request; its id."""

    def measure(self, run: str, measures: Sequence[Measure]) -> None:
        """Add points; an equal point (name, step, time, value) is not duplicated."""

    def complete(self, run: str, record: RunRecord) -> None:
        """Write params and points, then the completion mark, then status and end time."""

    def end(self, run: str, status: str, end: int) -> None:
        """Set the final status and the end time (Unix milliseconds)."""

    def resume(self, run: str, tags: Mapping[str, str]) -> None:
        """Set the status to running, and these tags."""

    def delete(self, run: str) -> None:
        """Delete the run."""

    def upload(self, run: str, paths: Sequence[Path], digest: str) -> None:
        """Log files and folders on the run, replacing earlier ones, then record `digest`."""


class Tracker:
    """The only writer of one sweep. After an error it is invalid: open another."""

    def __init__(self, store: Store, sweep: SweepFile) -> None:
        self._store = store
        self._sweep = sweep
        self._runs = _single(store)
        self.found = self._runs[SWEEP].status if SWEEP in self._runs else ""
        """The status of the sweep's run when this tracker was opened; empty if there was none."""
        self._rows: dict[str, TrialResult] = {}
        self._noted: Collection[tuple[str, int]] = ()
        self._studies: defaultdict[str, dict[str, TrialResult]] = defaultdict(dict)

    @property
    def seen(self) -> Collection[str]:
        """Keys of all rows that this tracker wrote or found complete."""
        return self._rows.keys()

    def update(
        self, rows: Sequence[TrialResult], progress: Callable[[int], None] = lambda done: None
    ) -> int:
        """Write the rows that are missing or incomplete, and the summaries; how many were written.

        `progress` is called after each row with the number of `rows` done.
        """
        began = min((row.started for row in rows), default=time.time())
        self._open(sweep_record(self._sweep, began), None)
        written = 0
        for done, row in enumerate(rows, 1):
            written += self._write(row)
            self._rows[row.key] = self._studies[row.trial.study][row.key] = row
            progress(done)
        for study in sorted({row.trial.study for row in rows}):
            mine = self._of_study(study)
            self._summarise(study_key(study), study_summary(mine), mine)
        self._summarise(SWEEP, sweep_summary(self._rows.values()), self._rows.values())
        return written

    def note(self, windows: Sequence[Window]) -> None:
        """Write the device utilisation that this tracker has not written yet."""
        measures = {(one.name, one.step): one for one in system_measures(windows)}
        new = [one for place, one in measures.items() if place not in self._noted]
        if new and SWEEP in self._runs:
            self._store.measure(self._runs[SWEEP].id, new)
            self._noted = measures.keys()

    def upload(self, out: Path) -> None:
        """Log the report and the registry of `out` on the sweep's run, unless they are there."""
        paths = [out / name for name in ARTIFACTS if (out / name).exists()]
        try:
            digest = _content(paths)
        except OSError as error:
            raise TrackingError(
                f"report or registry in '{out}' cannot be read: {reason(error)}. Write them again: "
                f"`orchestrate report {out}`."
            ) from error
        run = self._runs[SWEEP]
        if paths and run.artifacts != digest:
            self._store.upload(run.id, paths, digest)
            self._runs[SWEEP] = replace(run, artifacts=digest)

    def close(self, status: str) -> None:
        """Give the runs of the studies, then of the sweep, `status` (FINISHED or KILLED): all of
        them, for a study that was KILLED with the sweep may have nothing more to write.
        """
        for key, run in sorted(self._runs.items()):
            if run.status != status and not run.version:
                study = key.removeprefix(study_key(""))
                rows = self._rows.values() if key == SWEEP else self._of_study(study)
                self._store.end(run.id, status, _last(rows) or milliseconds(time.time()))
                self._runs[key] = replace(run, status=status)

    def _open(self, record: RunRecord, parent: str | None) -> None:
        """Create or resume the run of a sweep or study, with the tags of the present command."""
        run = self._existing(record, parent) or self._create(record, parent)
        if not run.running or not record.tags.items() <= run.tags.items():
            self._store.resume(run.id, record.tags)
            self._runs[record.key] = replace(run, status=RUNNING, tags={**run.tags, **record.tags})

    def _existing(self, record: RunRecord, parent: str | None) -> Run | None:
        """The run of this record; one of another version or parent is deleted.

        The version differs when a damaged ledger row was moved away and trained again, the parent
        when a person deleted the parent run.
        """
        run = self._runs.get(record.key)
        if run is None or (run.version, run.parent) == (record.version, parent):
            return run
        self._store.delete(run.id)
        del self._runs[record.key]
        return None

    def _create(self, record: RunRecord, parent: str | None) -> Run:
        number = self._store.create(record, parent)
        run = Run(number, record.key, parent, record.version, False, RUNNING, record.tags, {})
        self._runs[record.key] = run
        return run

    def _write(self, row: TrialResult) -> bool:
        record, above = trial_record(row), study_record(row)
        study = self._existing(above, self._runs[SWEEP].id)
        run = self._existing(record, study.id) if study else None
        if run and run.complete and not run.running:
            return False
        self._open(above, self._runs[SWEEP].id)
        parent = self._runs[above.key].id
        run = self._existing(record, parent) or self._create(record, parent)
        self._store.complete(run.id, record)
        self._runs[record.key] = replace(run, complete=True, status=record.status)
        return True

    def _summarise(
        self, key: str, summary: Mapping[str, float], rows: Collection[TrialResult]
    ) -> None:
        run = self._runs[key]
        if rows and run.latest != summary:
            step, now = len(rows), _last(rows)
            self._store.measure(run.id, [Measure(*item, step, now) for item in summary.items()])
            self._runs[key] = replace(run, latest=dict(summary))

    def _of_study(self, name: str) -> list[TrialResult]:
        return list(self._studies[name].values())


def only_writer(out: Path, timeout: float) -> AbstractContextManager[object]:
    """Take the lock of the sweep's one writer; `TrackingError` after `timeout` seconds of waiting.

    The system releases the lock when its holder ends.
    """
    try:
        return acquire(out / LOCK, timeout)
    except Timeout:
        raise TrackingError(
            f"another command is writing '{out}' to MLflow now, probably the sweep itself. "
            "Wait until it has ended, then try again."
        ) from None
    except OSError as error:
        raise TrackingError(
            f"'{out}' cannot be tracked: {reason(error)}. The lock of MLflow's writer lies there: "
            "make the folder writable, or copy it to one that is and `orchestrate track COPY`. The "
            "ledger has every result."
        ) from error


def _single(store: Store) -> dict[str, Run]:
    """Runs by key. Of duplicates, which a lost answer of a server causes, one is kept."""
    kept: dict[str, Run] = {}
    for run in store.runs():
        other = kept.get(run.key)
        if other is None:
            kept[run.key] = run
        elif run.complete and not other.complete:
            store.delete(other.id)
            kept[run.key] = run
        else:
            store.delete(run.id)
    return kept


def _last(rows: Iterable[TrialResult]) -> int:
    return max((milliseconds(row.finished) for row in rows), default=0)


def _content(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of files and folders."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                total.update(f"{path.name}/{file.relative_to(path)}\0".encode())
                total.update(hashlib.sha256(read_file(file, None)).digest())
    return total.hexdigest()
