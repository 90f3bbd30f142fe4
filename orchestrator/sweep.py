"""One sweep from the frozen plan to the exported registry; the order in which things happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.report import write_report
from orchestrator.analysis.summary import Summary
from orchestrator.backbones import fingerprint, normalisation_of
from orchestrator.backends.plan import HostPlan
from orchestrator.data.prepared import travel
from orchestrator.data.prepared.manifest import Manifest
from orchestrator.data.prepared.store import default_root
from orchestrator.data.roots import suite_root
from orchestrator.data.sheet import write_sheets
from orchestrator.data.sources import deviations, prepare_tasks
from orchestrator.errors import InvalidInput
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.extension import extend
from orchestrator.planning.resolve import plan_studies, plan_sweep
from orchestrator.planning.sweep_file import SweepFile, read_sweep
from orchestrator.registry import INDEX, export
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.search.search import Search
from orchestrator.search.study import StudyProgress
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import DataIdentity, Study, Suite, Sweep
from orchestrator.storage.files import storage_error
from orchestrator.storage.retry import RetryPolicy
from orchestrator.storage.sweep_lock import SweepLock
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage
from orchestrator.tracking.locations import chosen_uri, viewer
from orchestrator.tracking.process import TrackingProcess

_PATIENCE = 300.0
"""Seconds for which storage may refuse before the sweep ends."""


@dataclass(frozen=True)
class Planned:
    """A sweep that can start: everything is checked and every identity known."""

    config: SweepConfig
    suite: Suite
    sweep: Sweep
    manifests: Mapping[str, Manifest]
    weights: str
    data_root: Path

    @cached_property
    def storage(self) -> SweepStorage:
        """Where the sweep lies."""
        return SweepStorage.at(self.config.place)

    @property
    def paths(self) -> SweepPaths:
        """The output folder, or the working copy of it."""
        return self.storage.paths

    @property
    def data(self) -> dict[str, DataIdentity]:
        """Fingerprints of every task."""
        return {name: manifest.identity for name, manifest in self.manifests.items()}

    @property
    def notices(self) -> list[str]:
        """Why the results will not compare with published ones, if so."""
        return deviations(self.suite, {n: m.counts for n, m in self.manifests.items()})

    @property
    def studies(self) -> list[Study]:
        """One per task and adapter."""
        return plan_studies(self.sweep, self.data, self.weights)


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended."""

    summary: Summary
    failures: Mapping[str, str]
    tracking: str
    """Empty, or why MLflow does not have everything yet."""
    summaries: Mapping[str, Summary]
    """By protocol; `summary` is the first of them."""
    mlflow: str
    """Where its runs are looked at."""
    interrupted: bool = False


@dataclass(frozen=True)
class Watch:
    """Who looks on: `say` gets sentences, `data` what is prepared with the images done and their
    number, `progress` the studies' state as it changes.
    """

    say: Callable[[str], None] = lambda _: None
    data: Callable[[str, int, int], None] = lambda *_: None
    progress: Callable[[list[StudyProgress]], None] = lambda _: None


def plan(config: SweepConfig, watch: Watch) -> Planned:
    """Checks every name and value, prepares missing data, fingerprints data and weights."""
    suite, wanted = plan_sweep(config)
    weights = fingerprint(wanted.backbone)
    normalisation_of(wanted.backbone, wanted.recipe.normalisation)  # refused now, not in a pool
    storage = SweepStorage.at(config.place)
    storage.download(storage.paths.sweep)
    before = _begun(storage.paths)
    sweep = wanted if before is None else extend(before.sweep, wanted, suite)
    root = config.data_root or default_root()
    wanted_tasks = [suite.task(name) for name in sweep.tasks]
    raw = suite_root(suite, config.suite_root)
    manifests = prepare_tasks(suite, wanted_tasks, root, raw, watch.data)
    planned = Planned(config, suite, sweep, manifests, weights, root)
    _check_batches(planned)
    if before is not None:
        _check_identities(before, planned.data, weights)
    return planned


def run(planned: Planned, command: str, watch: Watch) -> Outcome:
    """Runs what the ledger lacks, then writes registry and report. The same call again goes on.

    Raises `OrchestrateError` with nothing lost; Ctrl-C ends in an `Outcome` with `interrupted`.
    """
    storage, paths = planned.storage, planned.paths
    with SweepLock(storage, watch.say) as lease:
        storage.download(paths.sweep)
        _write_sweep(planned, command, _continued(planned))
        storage.sync_down(paths.asks)
        _write_sheets(planned)
        _publish_data(planned, watch)
        ledger = Ledger(paths.ledger)
        ledger.clean()
        asks = SuggestionStore(paths.asks, storage.upload)
        search = Search(planned.sweep, planned.studies, asks, ledger.results())
        uri = chosen_uri(paths.out, planned.config.tracking_uri)
        tracking = TrackingProcess(paths.out, uri, lease.token, paths.uri).start()
        try:
            interrupted = _train(planned, search, lease.token, watch)
            lease.check()
            patience = RetryPolicy(0 if interrupted else _PATIENCE, watch.say)
            outcome = patience.call(lambda: conclude(storage, search.failures(), command))
            ended = tracking.finish(interrupted=interrupted)
        except BaseException:
            tracking.stop()
            raise
        return replace(
            outcome,
            tracking=ended.message,
            mlflow=viewer(paths.name, paths.out, uri),
            interrupted=interrupted,
        )


def conclude(storage: SweepStorage, failures: Mapping[str, str], command: str) -> Outcome:
    """Summary, registry and report from the ledger alone."""
    paths = storage.paths
    storage.sync_down(paths.pools, growing=True)
    storage.sync_down(paths.sheets)
    found = read_sweep(paths)
    results = Ledger(paths.ledger).results()
    summaries = {
        protocol: summarise(results, found.sweep, found.suite, protocol)
        for protocol in found.sweep.protocols
    }
    summary, *leaking = summaries.values()
    export(summary, results, paths.adapters, paths.registry, storage.download)
    write_report(
        paths.report,
        summary,
        results,
        command=command,
        registry=paths.shown(paths.registry),
        failures=failures,
        paper=leaking[0] if leaking else None,
        notices=deviations(found.suite, found.counts),
        counts=found.counts,
        sheets=_sheets(paths, found.sweep.tasks),
        windows=throughput.read(paths.pools),
    )
    storage.upload_folder(paths.registry, last=paths.registry / INDEX)
    storage.upload(paths.report)
    shown = viewer(paths.name, paths.out, chosen_uri(paths.out, None))
    return Outcome(summary, failures, "", summaries, shown)


def _begun(paths: SweepPaths) -> SweepFile | None:
    """The folder's sweep, if it has any result: before that it may still become another."""
    found = SweepFile.read(paths)
    return found if found and Ledger(paths.ledger).keys() else None


def _continued(planned: Planned) -> SweepFile | None:
    """The sweep that this command goes on with; what another one only asked for is removed."""
    paths = planned.paths
    found, begun = SweepFile.read(paths), _begun(paths)
    wanted = (planned.sweep, planned.data, planned.weights)
    if begun or (found and (found.sweep, dict(found.data), found.weights) == wanted):
        return found
    for folder in (paths.asks, paths.checkpoints):
        planned.storage.remove_folder(folder)
    return None


def _check_batches(planned: Planned) -> None:
    """Every batch that may be tried fits into every training split."""
    smallest = min(planned.manifests, key=lambda name: planned.manifests[name].counts["train"])
    images = planned.manifests[smallest].counts["train"]
    for study in planned.studies:
        tried = _largest(study.space["batch"]) if "batch" in study.space else study.recipe.batch
        if tried > images:
            how = "--space" if "batch" in study.space else f"--set batch={images} or less"
            raise InvalidInput(
                f"batch {tried} of adapter '{study.adapter}' is larger than the training split of "
                f"task '{smallest}', which has {images} images; change it with {how}."
            )


def _largest(distribution: Any) -> int:
    return int(max(getattr(distribution, "choices", None) or (distribution.high,)))


def _write_sweep(planned: Planned, command: str, before: SweepFile | None) -> None:
    counts = {name: manifest.counts for name, manifest in planned.manifests.items()}
    made = SweepFile.new(
        planned.sweep, planned.suite, counts, planned.data, planned.weights, command
    )
    if before is not None:
        made = replace(
            made,
            id=before.id,
            created=before.created,
            data={**before.data, **made.data},
            counts={**before.counts, **made.counts},
        )
    made.write(planned.paths)
    planned.storage.upload(planned.paths.sweep)


def _write_sheets(planned: Planned) -> None:
    folder = planned.paths.sheets
    try:
        write_sheets(folder, planned.suite, planned.sweep.tasks, planned.data_root)
    except OSError as error:
        raise storage_error(f"write contact sheets into '{folder}'", error) from error
    planned.storage.upload(*(folder / f"{name}.png" for name in planned.sweep.tasks))


def _publish_data(planned: Planned, watch: Watch) -> None:
    """Machines of a cluster have prepared tasks from the object store, where the sweep lies in one:
    they may share nothing else.
    """
    if planned.config.address is None:
        return
    tasks = [planned.suite.task(name) for name in planned.sweep.tasks]
    sent = travel.publish(planned.storage, planned.suite, tasks, planned.data_root)
    if sent:
        watch.say(f"the data of {', '.join(sent)} lies in '{planned.paths.name}' now")


def _sheets(paths: SweepPaths, tasks: Sequence[str]) -> dict[str, bytes]:
    """The contact sheets that the sweep's folder has, by task."""
    files = {name: paths.sheets / f"{name}.png" for name in tasks}
    return {name: path.read_bytes() for name, path in files.items() if path.is_file()}


def _train(planned: Planned, search: Search, lease: str, watch: Watch) -> bool:
    """Runs the backend until the search is done; True if a person interrupted it."""
    config = planned.config
    observe = _observer(search, config.budget_seconds, watch)
    host = HostPlan(
        out=planned.paths.out.resolve(),
        data_root=planned.data_root.resolve(),
        suite=planned.suite,
        backbone=planned.sweep.backbone,
        weights=planned.weights,
        stopping=planned.sweep.stopping,
        lease=lease,
        width=config.width,
        # Machines of a cluster may go at any time; theirs is then lost since the last checkpoint.
        checkpoint_seconds=0.0 if config.address else 60.0,
        storage_patience=_PATIENCE,
        uri=planned.paths.uri,
    )
    done = sum(study.done + study.stopped + study.diverged for study in search.progress())
    total = sum(study.total for study in search.progress())
    where = "in this process" if config.backend == "local" else "on Ray"
    watch.say(f"{done} of about {total} trials are recorded; running the rest {where}")
    try:
        if config.backend == "local":
            _run_local(search, host, config, observe, watch.say)
        else:
            _run_ray(search, host, config, observe, watch.say)
    except KeyboardInterrupt:
        return True
    finally:
        watch.progress(search.progress())
    return False


def _run_local(
    search: Search,
    host: HostPlan,
    config: SweepConfig,
    observe: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    from orchestrator.backends import local

    if config.address:
        raise InvalidInput("--address is for --backend ray; leave it out with --backend local.")
    device = local.pick_device(config.device)
    local.run(search, host, device=device, observe=observe, say=say)


def _run_ray(
    search: Search,
    host: HostPlan,
    config: SweepConfig,
    observe: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    from orchestrator.backends import ray_settings

    ray_settings.apply(config.address)
    from orchestrator.backends import ray

    cluster = ray.Cluster(config.address, config.device, config.width)
    ray.run(search, host, cluster, observe, say)


def _observer(search: Search, budget: float | None, watch: Watch) -> Callable[[], None]:
    """Shows progress and, once the time budget is spent, closes the search stage."""
    deadline = None if budget is None else time.monotonic() + budget
    closed = False

    def observe() -> None:
        nonlocal closed
        if deadline is not None and not closed and time.monotonic() > deadline:
            closed = True
            search.close_search()
            watch.say("time budget spent: no new configurations, finishing with those found")
        watch.progress(search.progress())

    return observe


def _check_identities(before: SweepFile, data: Mapping[str, DataIdentity], weights: str) -> None:
    changed = [
        name for name, identity in data.items() if before.data.get(name, identity) != identity
    ]
    if changed:
        raise InvalidInput(
            f"the data of {', '.join(changed)} changed since this folder's sweep began (other "
            "fingerprints); its results would not be comparable. Use another --out."
        )
    if before.weights != weights:
        raise InvalidInput(
            f"the weights of '{before.sweep.backbone}' changed since this folder's sweep began "
            f"({before.weights[:12]} there, {weights[:12]} now). Use another --out."
        )
