"""One sweep from the frozen plan to the exported registry; the order in which things happen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import throughput
from orchestrator.analysis.aggregate import summarise
from orchestrator.analysis.report import write_report
from orchestrator.analysis.summary import Summary
from orchestrator.backbones import fingerprint, normalisation_of
from orchestrator.backends.plan import HostPlan
from orchestrator.config import SweepConfig
from orchestrator.data.manifest import Manifest
from orchestrator.data.roots import suite_root
from orchestrator.data.sheet import write_sheets
from orchestrator.data.sources import deviations, prepare_tasks
from orchestrator.data.store import default_root
from orchestrator.errors import InvalidInput
from orchestrator.extension import extend
from orchestrator.lease import SweepLease
from orchestrator.ledger import Ledger
from orchestrator.places import Places
from orchestrator.planning import plan_studies, plan_sweep
from orchestrator.registry import export
from orchestrator.search.asks import AskStore
from orchestrator.search.search import Search
from orchestrator.search.study import StudyProgress
from orchestrator.spec import DataIdentity, Study, Suite, Sweep
from orchestrator.sweepfile import SweepFile, read_sweep
from orchestrator.tracking.places import default_uri
from orchestrator.tracking.process import TrackingProcess


@dataclass(frozen=True)
class Planned:
    """A sweep that can start: everything is checked and every identity known."""

    config: SweepConfig
    suite: Suite
    sweep: Sweep
    manifests: Mapping[str, Manifest]
    weights: str
    data_root: Path

    @property
    def places(self) -> Places:
        """The output folder."""
        return Places(self.config.folder)

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
    places = Places(config.folder)
    before = _begun(places)
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
    places = planned.places
    with SweepLease(places.out, waiting=watch.say) as lease:
        _write_sweep(planned, command, _continued(planned))
        write_sheets(places.sheets, planned.suite, planned.sweep.tasks, planned.data_root)
        ledger = Ledger(places.ledger)
        ledger.clean()
        search = Search(planned.sweep, planned.studies, AskStore(places.asks), ledger.results())
        uri = planned.config.tracking_uri or default_uri(places.out)
        tracking = TrackingProcess(places.out, uri, lease.token).start()
        try:
            interrupted = _train(planned, search, lease.token, watch)
            outcome = conclude(places, search.failures(), command)
            ended = tracking.finish(interrupted=interrupted)
        except BaseException:
            tracking.stop()
            raise
        return replace(outcome, tracking=ended.message, interrupted=interrupted)


def conclude(places: Places, failures: Mapping[str, str], command: str) -> Outcome:
    """Summary, registry and report from the ledger alone."""
    found = read_sweep(places)
    results = Ledger(places.ledger).results()
    summaries = {
        protocol: summarise(results, found.sweep, found.suite, protocol)
        for protocol in found.sweep.protocols
    }
    summary, *leaking = summaries.values()
    export(summary, results, places.adapters, places.registry)
    write_report(
        places.report,
        summary,
        results,
        command=command,
        registry=str(places.registry),
        failures=failures,
        paper=leaking[0] if leaking else None,
        notices=deviations(found.suite, found.counts),
        counts=found.counts,
        sheets=_sheets(places, found.sweep.tasks),
        windows=throughput.read(places.pools),
    )
    return Outcome(summary, failures, "", summaries=summaries)


def _begun(places: Places) -> SweepFile | None:
    """The folder's sweep, if it has any result: before that it may still become another."""
    found = SweepFile.read(places)
    return found if found and places.ledger.exists() and Ledger(places.ledger).keys() else None


def _continued(planned: Planned) -> SweepFile | None:
    """The sweep that this command goes on with; what another one only asked for is removed."""
    places = planned.places
    found, begun = SweepFile.read(places), _begun(places)
    wanted = (planned.sweep, planned.data, planned.weights)
    if begun or (found and (found.sweep, dict(found.data), found.weights) == wanted):
        return found
    for folder in (places.asks, places.checkpoints):
        shutil.rmtree(folder, ignore_errors=True)
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
    made.write(planned.places)


def _sheets(places: Places, tasks: Sequence[str]) -> dict[str, bytes]:
    """The contact sheets that the sweep's folder has, by task."""
    paths = {name: places.sheets / f"{name}.png" for name in tasks}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _train(planned: Planned, search: Search, lease: str, watch: Watch) -> bool:
    """Runs the backend until the search is done; True if a person interrupted it."""
    config = planned.config
    observe = _observer(search, config.budget_seconds, watch)
    host = HostPlan(
        out=planned.places.out.resolve(),
        data_root=planned.data_root.resolve(),
        suite=planned.suite,
        backbone=planned.sweep.backbone,
        weights=planned.weights,
        stopping=planned.sweep.stopping,
        lease=lease,
        width=config.width,
    )
    done = sum(study.done + study.stopped + study.diverged for study in search.progress())
    total = sum(study.total for study in search.progress())
    where = "in this process" if config.backend == "local" else "on Ray"
    watch.say(f"{done} of about {total} trials are recorded; running the rest {where}")
    try:
        if config.backend == "local":
            _run_local(search, host, config, observe)
        else:
            _run_ray(search, host, config, observe)
    except KeyboardInterrupt:
        return True
    finally:
        watch.progress(search.progress())
    return False


def _run_local(
    search: Search, host: HostPlan, config: SweepConfig, observe: Callable[[], None]
) -> None:
    from orchestrator.backends import local

    if config.address:
        raise InvalidInput("--address is for --backend ray; leave it out with --backend local.")
    device = local.pick_device(config.device)
    local.run(search, host, device=device, observe=observe)


def _run_ray(
    search: Search, host: HostPlan, config: SweepConfig, observe: Callable[[], None]
) -> None:
    from orchestrator.backends import ray_settings

    ray_settings.apply(config.address)
    from orchestrator.backends import ray

    ray.run(search, host, ray.Cluster(config.address, config.device, config.width), observe)


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
