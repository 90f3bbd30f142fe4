"""A sweep from its options to the exported registry, in the order in which things happen.

`plan` checks the options and prepares data, `run` trains what the ledger lacks, `conclude` writes
registry and report from the ledger.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from orchestrator.analysis.aggregate import by_study, summarise
from orchestrator.analysis.metrics import probability_metrics
from orchestrator.analysis.report import Extras, write_report
from orchestrator.analysis.summary import ProbabilityMetrics, Summary
from orchestrator.backbones import fingerprint, normalisation_of, weights_here
from orchestrator.backends.pool_config import PoolConfig
from orchestrator.data.contact_sheet import write_sheets
from orchestrator.data.prepared import transfer
from orchestrator.data.prepared.prepare import check_sources, deviations, prepare_tasks
from orchestrator.data.prepared.store import Manifest, default_root
from orchestrator.data.suite_root import suite_root
from orchestrator.errors import (
    CheckpointError,
    DataError,
    InvalidInput,
    OrchestrateError,
    together,
)
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.extension import check_identities, extend
from orchestrator.planning.resolve import check_batches, plan_studies, plan_sweep
from orchestrator.registry import INDEX, configurations, export, recorded_metrics
from orchestrator.results import throughput
from orchestrator.results.consistency import misfits
from orchestrator.results.ledger import Ledger
from orchestrator.results.predictions import are_here, reader
from orchestrator.results.sweep_file import SweepFile, read_sweep
from orchestrator.search.prior import KINDS, Searched
from orchestrator.search.search import Search
from orchestrator.search.study import StudyProgress
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import DataIdentity, Study, Suite, Sweep, TrialResult
from orchestrator.storage.files import read_file, reason
from orchestrator.storage.retry import RetryPolicy
from orchestrator.storage.sweep_lock import SweepLock
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage
from orchestrator.tracking.locations import check_uri, chosen_uri, viewer
from orchestrator.tracking.process import TrackingProcess

_STORAGE_SECONDS = 300.0
"""How long storage operations may fail before the sweep ends."""
COMPACT_FROM = 2000
"""A concluded sweep's ledger is compacted if it has at least this many fragments."""


@dataclass(frozen=True)
class Planned:
    """A sweep that can start: all options are checked, data and weights are fingerprinted."""

    config: SweepConfig
    suite: Suite
    sweep: Sweep
    manifests: Mapping[str, Manifest]
    weights: str
    data_root: Path

    @cached_property
    def storage(self) -> SweepStorage:
        """The sweep's folder or object store."""
        return SweepStorage.at(self.config.location)

    @property
    def paths(self) -> SweepPaths:
        """The output folder, or the working copy of it."""
        return self.storage.paths

    @property
    def data(self) -> dict[str, DataIdentity]:
        """Task → fingerprints of its prepared data."""
        return {name: manifest.identity for name, manifest in self.manifests.items()}

    @property
    def counts(self) -> dict[str, Mapping[str, int]]:
        """Task → number of images by split."""
        return {name: manifest.counts for name, manifest in self.manifests.items()}

    @cached_property
    def earlier(self) -> dict[str, list[Searched]]:
        """By adapter, the searches that its studies learn from (`Sweep.prior`), but for its own."""
        found: dict[str, list[Searched]] = {}
        for place in self.sweep.prior:
            if place not in KINDS:
                for adapter, search in earlier_searches(place):
                    found.setdefault(adapter, []).append(search)
        return found

    @property
    def studies(self) -> list[Study]:
        """One per protocol, adapter and task."""
        return plan_studies(self.sweep, self.data, self.weights)


@dataclass(frozen=True)
class Outcome:
    """The results of a sweep."""

    summaries: Mapping[str, Summary]
    """By protocol."""
    failures: Mapping[str, str]
    """Trial key → message, of trials that were given up."""
    mlflow: str
    """How to open MLflow's interface for this sweep."""
    misfits: tuple[str, ...] = ()
    """What was lost, or does not belong to this sweep; see `orchestrator.results.consistency`."""
    left_out: tuple[str, ...] = ()
    """Derived files that could not be read."""
    tracking: str = ""
    """Empty, or why MLflow lacks some runs."""
    interrupted: bool = False


@dataclass(frozen=True)
class Observer:
    """Callbacks: `message` (a line of text), `data` (task, images prepared, images in all),
    `progress` (the state of all studies) and `finishing` (every trial has ended: what is left is
    short, and is not to be interrupted).
    """

    message: Callable[[str], None] = lambda _: None
    data: Callable[[str, int, int], None] = lambda *_: None
    progress: Callable[[list[StudyProgress]], None] = lambda _: None
    finishing: Callable[[], None] = lambda: None


def plan(config: SweepConfig, observer: Observer) -> Planned:
    """Check every name and value, prepare missing data, fingerprint data and weights."""
    suite, wanted = plan_sweep(config)
    check_uri(chosen_uri(Path(config.location), config.tracking_uri))
    _check_inputs(config, suite, wanted)
    weights = fingerprint(wanted.backbone)
    storage = SweepStorage.at(config.location)
    storage.download(storage.paths.sweep)
    before = _with_results(storage.paths)
    sweep = wanted if before is None else extend(before.sweep, wanted, suite)
    root = config.data_root or default_root()
    wanted_tasks = [suite.task(name) for name in sweep.tasks]
    raw = suite_root(suite, config.suite_root)
    manifests = prepare_tasks(suite, wanted_tasks, root, raw, observer.data)
    planned = Planned(config, suite, sweep, manifests, weights, root)
    check_batches(planned.studies, planned.counts)
    _ = planned.earlier  # what is wrong with a prior is said now
    if before is not None:
        check_identities(before.sweep.backbone, before.data, planned.data, before.weights, weights)
    return planned


def earlier_searches(place: str) -> list[tuple[str, Searched]]:
    """The searches of an earlier sweep, or the winners of a registry, each with its adapter;
    `InvalidInput` if the place holds neither.
    """
    storage = SweepStorage.at(place)
    paths = storage.paths
    storage.download(paths.sweep)
    if SweepFile.read(paths) is not None:
        rows = by_study(row for row in Ledger(paths.ledger).results() if not row.trial.leaks)
        return [
            (adapter, Searched.of(f"{place}: {task}/{adapter}", own))
            for (task, adapter), own in rows.items()
        ]
    storage.download(paths.out / INDEX)
    if not (paths.out / INDEX).exists():
        raise InvalidInput(
            f"--prior '{place}' holds neither a sweep nor a registry; give the folder of one, or "
            f"{', '.join(KINDS)}."
        )
    return [
        (entry.adapter, Searched(f"{place}: {entry.task}/{entry.adapter}", ((fields, 1.0),)))
        for entry, fields in configurations(place)
        if not entry.leaks
    ]


def _check_inputs(config: SweepConfig, suite: Suite, wanted: Sweep) -> None:
    """Everything that is wrong with weights and images in one error, before anything slow.

    Where the weights are on this machine, `prepare_tasks` finds what is wrong with the images.
    """
    problems: list[OrchestrateError] = []
    here = False
    try:
        here = weights_here(wanted.backbone)
        normalisation_of(wanted.backbone, wanted.recipe.normalisation)  # fail here, not in a pool
    except (CheckpointError, InvalidInput) as error:
        problems.append(error)
    try:
        raw = suite_root(suite, config.suite_root)
        if problems or not here:
            tasks = [suite.task(name) for name in wanted.tasks]
            check_sources(suite, tasks, config.data_root or default_root(), raw)
    except (DataError, InvalidInput) as error:
        problems.append(error)
    if problems:
        raise together(problems)


def run(planned: Planned, command: str, observer: Observer) -> Outcome:
    """Run the trials that the ledger lacks, then write registry and report.

    The same call again resumes: finished trials are never lost, whatever error ended the first.
    Ctrl-C returns an `Outcome` with `interrupted`.
    """
    storage, paths = planned.storage, planned.paths
    with SweepLock(storage, observer.message) as lease:
        storage.download(paths.sweep)
        _write_sweep_file(planned, command)
        storage.sync_down(paths.asks)
        _write_sheets(planned, observer)
        _publish_data(planned, observer)
        ledger = Ledger(paths.ledger)
        ledger.clean()
        suggestions = SuggestionStore(paths.asks, storage.upload)
        search = Search(
            planned.sweep, planned.studies, suggestions, ledger.results(), planned.earlier
        )
        uri = chosen_uri(paths.out, planned.config.tracking_uri)
        tracking = TrackingProcess(paths.out, uri, lease.token, paths.uri).start()
        try:
            interrupted = _train(planned, search, lease.token, observer)
            observer.finishing()
            lease.check()
            retry = RetryPolicy(0 if interrupted else _STORAGE_SECONDS, observer.message)
            outcome = retry.call(lambda: conclude(storage, search.failures(), command))
            ended = tracking.finish(interrupted=interrupted)
            if not interrupted:
                lease.check()
                retry.call(lambda: _compact(ledger))
        except BaseException:
            tracking.stop()
            raise
        mlflow = viewer(paths.name, paths.out, uri)
        return replace(outcome, mlflow=mlflow, tracking=ended.message, interrupted=interrupted)


def conclude(storage: SweepStorage, failures: Mapping[str, str], command: str) -> Outcome:
    """Write summary, registry and report from the ledger alone."""
    paths = storage.paths
    storage.sync_down(paths.pools, growing=True)
    storage.sync_down(paths.sheets)
    storage.sync_down(paths.asks)
    storage.download(paths.registry / INDEX)
    found = read_sweep(paths)
    results = Ledger(paths.ledger).results()
    left_out: list[str] = []
    suggested = SuggestionStore(paths.asks).keys(left_out.append)
    wrong = misfits(found, results, suggested, paths.trained(), failures)
    known, read = recorded_metrics(paths.registry), reader(paths, storage.download, left_out.append)

    def probabilities(finals: Sequence[TrialResult]) -> ProbabilityMetrics | None:
        keys = tuple(row.key for row in finals)
        if keys in known and not are_here(paths, finals):
            return known[keys]
        return probability_metrics([read(row) for row in finals])

    summaries = {
        protocol: summarise(
            results, found.sweep, found.suite, protocol, found.counts, probabilities
        )
        for protocol in found.sweep.protocols
    }
    summary, *leaking = summaries.values()
    export(summary, results, paths.adapters, paths.registry, storage.download, wrong.append)
    extras = Extras(
        command=command,
        registry=paths.shown(paths.registry),
        failures=failures,
        notices=deviations(found.suite, found.counts),
        counts=found.counts,
        sheets=_sheets(paths.sheets, found.sweep.tasks, left_out),
        windows=throughput.read(paths.pools, left_out.append),
        misfits=wrong,
        left_out=left_out,
    )
    write_report(paths.report, summary, results, extras, leaking[0] if leaking else None)
    storage.upload_folder(paths.registry, last=paths.registry / INDEX)
    storage.upload(paths.report)
    mlflow = viewer(paths.name, paths.out, chosen_uri(paths.out, None))
    return Outcome(summaries, failures, mlflow, tuple(wrong), tuple(left_out))


def _sheets(folder: Path, tasks: Sequence[str], left_out: list[str]) -> dict[str, bytes]:
    """Task → its contact sheet; none is needed."""
    found = {}
    for task in tasks:
        try:
            content = read_file(folder / f"{task}.png")
            if content[:4] != b"\x89PNG":
                raise OSError("it is no PNG file")
            found[task] = content
        except FileNotFoundError:
            continue
        except OSError as error:
            left_out.append(f"the contact sheet of '{task}' is left out: {reason(error)}")
    return found


def _compact(ledger: Ledger) -> None:
    """Merge the fragments of a large ledger, whose thousands of files take minutes to read.

    Fragments of final trials stay: a person removes one to have its adapter trained again (see the
    error of `registry.export`). Only for the holder of the sweep's lock.
    """
    ledger.compact(least=COMPACT_FROM, keep=lambda row: row.trial.stage == "final")


def _with_results(paths: SweepPaths) -> SweepFile | None:
    """The folder's sweep if it has a result; without one another command may replace it."""
    found = SweepFile.read(paths)
    return found if found and Ledger(paths.ledger).keys() else None


def _write_sweep_file(planned: Planned, command: str) -> None:
    """Write sweep.json; suggestions and checkpoints of a sweep without results are removed."""
    paths, identities = planned.paths, (planned.data, planned.weights)
    made = SweepFile.new(planned.sweep, planned.suite, planned.counts, *identities, command)
    before = SweepFile.read(paths)
    same = before and (before.sweep, dict(before.data), before.weights) == (made.sweep, *identities)
    if before and (same or _with_results(paths)):
        made = replace(
            made,
            id=before.id,
            created=before.created,
            data={**before.data, **made.data},
            counts={**before.counts, **made.counts},
        )
    else:
        for folder in (paths.asks, paths.checkpoints):
            planned.storage.remove_folder(folder)
    made.write(paths)
    planned.storage.upload(paths.sweep)


def _write_sheets(planned: Planned, observer: Observer) -> None:
    """Write contact sheets for the report; a sweep does without those that cannot be written."""
    for name in planned.sweep.tasks:
        try:
            paths = write_sheets(planned.paths.sheets, planned.suite, [name], planned.data_root)
        except (OSError, InvalidInput) as error:
            observer.message(f"no contact sheet of '{name}': {reason(error)}")
        else:
            planned.storage.upload(*paths)


def _publish_data(planned: Planned, observer: Observer) -> None:
    """Upload prepared tasks if a cluster's machines share nothing but the object store."""
    if planned.config.address is None:
        return
    tasks = [planned.suite.task(name) for name in planned.sweep.tasks]
    sent = transfer.upload(planned.storage, planned.suite, tasks, planned.data_root)
    if sent:
        observer.message(f"uploaded the data of {', '.join(sent)} to '{planned.paths.name}'")


def _train(planned: Planned, search: Search, lease: str, observer: Observer) -> bool:
    """Run the backend until the search is done; True if it was interrupted."""
    config = planned.config
    host = PoolConfig(
        out=planned.paths.out.resolve(),
        data_root=planned.data_root.resolve(),
        suite=planned.suite,
        backbone=planned.sweep.backbone,
        weights=planned.weights,
        stopping=planned.sweep.stopping,
        lease=lease,
        width=config.width,
        # Machines of a cluster may disappear at any time, with all work since the checkpoint.
        checkpoint_seconds=0.0 if config.address else 60.0,
        storage_timeout=_STORAGE_SECONDS,
        uri=planned.paths.uri,
    )
    done = sum(study.done + study.stopped + study.diverged for study in search.progress())
    total = sum(study.total for study in search.progress())
    where = "in this process" if config.backend == "local" else "on Ray"
    observer.message(f"{done} of about {total} trials are recorded; running the rest {where}")
    try:
        _run_backend(search, host, config, observer)
    except KeyboardInterrupt:
        return True
    finally:
        observer.progress(search.progress())
    return False


def _run_backend(search: Search, host: PoolConfig, config: SweepConfig, observer: Observer) -> None:
    observe = _progress_callback(search, config.budget_seconds, observer)
    if config.backend == "local":
        from orchestrator.backends import local

        if config.address:
            raise InvalidInput("--address is for --backend ray; leave it out with --backend local.")
        device = local.pick_device(config.device)
        local.run(search, host, device=device, observe=observe, notify=observer.message)
        return
    from orchestrator.backends import ray_settings

    ray_settings.apply(config.address)
    from orchestrator.backends import ray

    cluster = ray.Cluster(config.address, config.device, config.width)
    ray.run(search, host, cluster, observe, observer.message)


def _progress_callback(
    search: Search, budget: float | None, observer: Observer
) -> Callable[[], None]:
    """Reports progress and, once the time budget (seconds) is spent, closes the search stage."""
    deadline = math.inf if budget is None else time.monotonic() + budget

    def observe() -> None:
        nonlocal deadline
        if time.monotonic() > deadline:
            deadline = math.inf
            search.close_search()
            observer.message("time budget spent: no new configurations, finishing those found")
        studies = search.progress()
        if all(study.stage == "done" for study in studies):
            observer.finishing()
        observer.progress(studies)

    return observe
