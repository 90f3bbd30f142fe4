"""The MLflow client; no other file imports MLflow. `track` writes a whole ledger at once."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import OrchestrateError, TrackingError
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.results.sweep_file import SweepFile, read_sweep
from orchestrator.storage.addresses import redacted
from orchestrator.storage.files import open_regular, rename_new
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import paths_of
from orchestrator.tracking import locations
from orchestrator.tracking.records import SYSTEM, Measure, RunRecord
from orchestrator.tracking.tracker import Run, Tracker, only_writer

locations.set_variables()

import mlflow.entities as entities  # noqa: E402  (MLflow reads its environment when imported)
from mlflow import MlflowClient  # noqa: E402
from mlflow import __version__ as mlflow_version  # noqa: E402

KEY, VERSION, OF_SWEEP = "orchestrate.key", "orchestrate.version", "orchestrate.sweep"
COMPLETE, ARTIFACTS = "orchestrate.complete", "orchestrate.artifacts"
PARENT = "mlflow.parentRunId"
MOST_METRICS, MOST_PARAMS = 900, 100
"""Limits of one `log_batch`: 100 params, and 1,000 items in all."""
PAGE = 1000
TIMEOUT = 30.0
"""Seconds that `track` waits for another writer of the same folder."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class TrackCounts:
    """Rows in the ledger, and how many of them `track` wrote."""

    total: int
    written: int

    def __str__(self) -> str:
        trials = "1 trial" if self.total == 1 else f"{self.total} trials"
        return f"{trials}, {self.written or 'none'} of them written now"


def track(
    out: Path,
    uri: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    timeout: float = TIMEOUT,
    ledger: str | Path | None = None,
) -> TrackCounts:
    """Write what MLflow lacks of the sweep in `out`; a second call changes nothing.

    The ledger does not record whether a sweep was interrupted: the sweep's run ends as FINISHED,
    but a KILLED one without new rows stays KILLED.

    Args:
        out: the sweep's folder.
        uri: any MLflow tracking address; default: the database in `out`.
        on_progress: called with (rows done, rows in all).
        timeout: seconds to wait while another command writes the same folder.
        ledger: folder or address of the results, if not in `out`.

    Raises:
        TrackingError: MLflow cannot be used, or another command is writing.
        LedgerError, InvalidInput: the folder cannot be read.
    """
    uri = uri or locations.default_uri(out)
    locations.check_uri(uri)
    read_sweep(paths_of(out))
    rows = Ledger(ledger or SweepPaths(out).ledger).results()
    with only_writer(out, timeout):
        tracker = open_tracker(out, uri)
        written = tracker.update(rows, lambda done: on_progress(done, len(rows)))
        tracker.note(throughput.read(SweepPaths(out).pools))
        tracker.upload(out)
        tracker.close("KILLED" if tracker.found == "KILLED" and not written else "FINISHED")
    return TrackCounts(len(rows), written)


def open_tracker(out: Path, uri: str) -> Tracker:
    """A tracker of the sweep in `out`; the caller holds `only_writer` while it uses it."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sweep = read_sweep(paths_of(out))
    return Tracker(MlflowStore(out, uri, sweep), sweep)


def check_database(out: Path, uri: str) -> None:
    """`TrackingError` if MLflow cannot read the database at `uri`."""
    with _explained(out, uri):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


class MlflowStore:
    """The runs of the sweep in `out`, at tracking address `uri`; the `Store` of `Tracker`."""

    def __init__(self, out: Path, uri: str, sweep: SweepFile) -> None:
        self._out, self._uri = out, uri
        self._sweep = sweep.id
        with self._explained():
            _create_sqlite(locations.sqlite_file(uri), sweep.id)
            locations.follow_move(out, uri)
            self._client = MlflowClient(tracking_uri=uri)
            root = locations.artifact_root(out, uri) if locations.is_database(uri) else None
            name = f"orchestrate/{sweep.sweep.suite}/{sweep.sweep.backbone}"
            self._experiment = _experiment(self._client, name, root)

    def runs(self) -> list[Run]:
        found: list[Run] = []
        token = None
        with self._explained():
            while True:
                page = self._client.search_runs(
                    [self._experiment],
                    filter_string=f"tags.`{OF_SWEEP}` = '{self._sweep}'",
                    max_results=PAGE,
                    order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
                    page_token=token,
                )
                found += [_run(item) for item in page]
                token = page.token
                if not token:
                    return found

    def create(self, record: RunRecord, parent: str | None) -> str:
        ours = {KEY: record.key, VERSION: record.version, OF_SWEEP: self._sweep}
        tags = {**record.tags, **ours, **({PARENT: parent} if parent else {})}
        with self._explained():
            run = self._client.create_run(self._experiment, record.start, tags, record.name)
            return str(run.info.run_id)

    def complete(self, run: str, record: RunRecord) -> None:
        params = [entities.Param(name, value) for name, value in record.params.items()]
        self.measure(run, record.measures, params, [entities.RunTag(COMPLETE, "true")])
        self.end(run, record.status, record.end)

    def measure(
        self,
        run: str,
        measures: Sequence[Measure],
        params: Sequence[entities.Param] = (),
        tags: Sequence[entities.RunTag] = (),
    ) -> None:
        """Points and params in as few batches as possible; tags last, in a request of their own."""
        metrics = [entities.Metric(m.name, m.value, m.time, m.step) for m in measures]
        parts = zip_longest(
            _parts(metrics, MOST_METRICS), _parts(params, MOST_PARAMS), fillvalue=()
        )
        with self._explained():
            for some, few in parts:
                self._client.log_batch(run, metrics=some, params=few, synchronous=True)
            if tags:
                self._client.log_batch(run, tags=tags, synchronous=True)

    def end(self, run: str, status: str, end: int) -> None:
        with self._explained():
            self._client.set_terminated(run, status, end)

    def resume(self, run: str, tags: Mapping[str, str]) -> None:
        with self._explained():
            self._client.update_run(run, status="RUNNING")
        self.measure(run, (), tags=[entities.RunTag(name, value) for name, value in tags.items()])

    def delete(self, run: str) -> None:
        with self._explained():
            self._client.delete_run(run)

    def upload(self, run: str, paths: Sequence[Path], digest: str) -> None:
        with self._explained():
            for path in paths:
                self._client.log_artifact(run, str(path))
            self._client.set_tag(run, ARTIFACTS, digest, synchronous=True)

    def _explained(self) -> AbstractContextManager[None]:
        return _explained(self._out, self._uri)


@contextmanager
def _explained(out: Path, uri: str) -> Iterator[None]:
    """Turn every error into a `TrackingError`: MLflow, SQLAlchemy, requests and the clients of
    object stores each raise their own.
    """
    try:
        yield
    except OrchestrateError:
        raise
    except ModuleNotFoundError as error:
        advice = 'install that; for PostgreSQL: pip install "psycopg[binary]".'
        raise locations.unreachable(out, uri, f"{error}: {advice}") from None
    except Exception as error:
        if "out-of-date database schema" in str(error):
            raise _other_schema(out, uri) from None
        raise locations.unreachable(out, uri, error) from None


def _other_schema(out: Path, uri: str) -> TrackingError:
    """The error of a database that another version of MLflow made; MLflow's names no address."""
    file = locations.sqlite_file(uri)
    again = f", or move '{file}' away and write it again: `{locations.track_command(out, uri)}`"
    return TrackingError(
        f"the database {redacted(uri)} was made by another version of MLflow than {mlflow_version} "
        f"here. Copy it, then bring an older one up to date: `mlflow db upgrade "
        f"{shlex.quote(redacted(uri))}`{again if file else ''}. Nothing is lost: the ledger has "
        "every result."
    )


def _create_sqlite(file: Path | None, mark: str) -> None:
    """Create a new database under another name, then give it its own: MLflow's migrations are
    not transactional, and a database whose migration was cut off can never be opened.
    """
    if file is None:
        return
    if file.exists():
        open_regular(file).close()  # SQLite waits at a pipe, and MLflow tries a folder for minutes
        if not all(os.access(place, os.W_OK) for place in (file, file.parent)):
            raise OSError(f"'{file}' or its folder cannot be written.")
        return
    draft = file.with_name(f"{file.name}.new-{mark[:8]}")
    for left in (draft, draft.with_name(f"{draft.name}-journal")):
        left.unlink(missing_ok=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    MlflowClient(tracking_uri=locations.sqlite_uri(draft)).search_experiments(max_results=1)
    with suppress(FileExistsError):  # created meanwhile by another sweep that shares it
        rename_new(draft, file)
    draft.unlink(missing_ok=True)


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of the experiment of that name, created if it is missing."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # With this kind MLflow's interface opens on training runs, not on traces of chat models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=kind))
        except Exception:  # created meanwhile by another sweep; the error depends on the store
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == entities.LifecycleStage.DELETED:  # by a person; with its runs
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _run(item: entities.Run) -> Run:
    tags = item.data.tags
    return Run(
        id=item.info.run_id,
        key=tags.get(KEY, ""),
        parent=tags.get(PARENT),
        version=tags.get(VERSION, ""),
        complete=COMPLETE in tags,
        status=item.info.status,
        tags=dict(tags),
        latest={n: v for n, v in item.data.metrics.items() if not n.startswith(SYSTEM)},
        artifacts=tags.get(ARTIFACTS, ""),
    )


def _parts(items: Sequence[_T], most: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + most] for start in range(0, len(items), most))
