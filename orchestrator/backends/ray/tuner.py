"""What Ray Tune sees of a sweep: one Tuner for all studies, and the classes that it calls."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.backends.pool_config import PoolConfig
from orchestrator.backends.pool_service import Report
from orchestrator.backends.ray.cluster import (
    NAMESPACE,
    Cluster,
    check_storage,
    connected,
    device_kind,
)
from orchestrator.backends.ray.dispatcher import Dispatcher
from orchestrator.backends.ray.pool_manager import POOL_GONE, Capacity, Pools
from orchestrator.search.search import Done, Search
from orchestrator.spec import Trial

# Tune would write the driver's AWS keys into each trainable's runtime environment, which Ray logs
# for everybody to read. Pools find credentials on their machines.
class_cache.ENV_VARS_TO_PROPAGATE = {
    name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
}

# A trial whose process has died is tried again, and a cluster's end is a sentence; Tune would print
# a traceback for each trial.
logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)

_POOL_ATTEMPTS = 5
_LAST_RECORDS_SECONDS = 3.0
"""How long pools have to write their last records."""


def run(
    search: Search,
    config: PoolConfig,
    cluster: Cluster,
    observe: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] | None = None,
) -> None:
    """Run every trial that `search` asks for on a Ray cluster; returns when all are done.

    `ray_settings.apply` must have been called before this module is imported. Raises `BackendError`
    if the cluster cannot be reached or a pool refuses its work.

    Args:
        search: gives trials, decides at rungs, hears results.
        config: the pools' settings.
        cluster: where to run.
        observe: called at every step, for progress displays and time budgets.
        notify: called with a sentence when storage fails and is retried, and when it works again.
    """
    # Not in the sweep's folder: nobody reads Tune's files back, and that disk may be full.
    tune_files = Path(tempfile.mkdtemp(prefix="orchestrate-tune-"))
    try:
        with connected(cluster):
            if cluster.address:
                out = config.uri or config.out
                check_storage(out, config.suite, config.data_root, cluster.device)
            capacity = Capacity(
                device_kind(cluster.device), cluster.width, growing=cluster.address is not None
            )
            pools = Pools(config, cluster.device, capacity)
            pools.poll()  # the pools start while Tune does
            dispatcher = Dispatcher(search, config, pools, observe, notify)
            _tuner(dispatcher, pools, cluster.device, tune_files).fit()
            pools.close("the sweep is over", _LAST_RECORDS_SECONDS)
            dispatcher.raise_error()
    finally:
        shutil.rmtree(tune_files, ignore_errors=True)


def _tuner(dispatcher: Dispatcher, pools: Pools, device: str, files: Path) -> tune.Tuner:
    # Tune's own bound is one pending trial for a custom Searcher; ours is `Capacity.in_flight`.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "100000"
    kind = pools.capacity.kind

    def request(values: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([{kind: values["share"]}])

    return tune.Tuner(
        tune.with_resources(PoolTrainable, request),
        param_space={"manager": pools.name, "device": device},
        tune_config=tune.TuneConfig(
            search_alg=TuneSearcher(dispatcher),
            scheduler=TuneScheduler(dispatcher),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(files),
            verbose=0,
            callbacks=[TuneCallback(dispatcher)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


class TuneSearcher(Searcher):
    """Tune asks for the next trial, and says when it is done with one."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def suggest(self, trial_id: str) -> Any:
        """The next trial's values, None to wait, FINISHED at the end."""
        asked = self._dispatcher.propose(trial_id)
        if isinstance(asked, Trial):
            return {
                "trial": asked.to_dict(),
                "key": asked.key,
                "rungs": self._dispatcher.rungs(asked),
                "share": self._dispatcher.pools.capacity.share,
            }
        return str(Searcher.FINISHED) if isinstance(asked, Done) else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: rungs are the scheduler's, ends are the callback's."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._dispatcher.close_trial(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger and the suggestions are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class TuneScheduler(FIFOScheduler):
    """Tune asks whether a trial goes on after a report; one that has ended does not come here."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._dispatcher.decide(trial.trial_id, result["report"])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class TuneCallback(tune.Callback):
    """Tune says when a trial has its trainable, and what the trainable reports."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._dispatcher.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        report = result.pop("report")  # Tune would keep a copy of it for every trial
        if report.status != "rung":
            self._dispatcher.report(trial.trial_id, report)


class PoolTrainable(tune.Trainable):
    """One Tune trial: a light process without torch that holds a share of a device.

    It forwards its trial to a pool of that device and waits; Tune reuses it for the next trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._manager = ray.get_actor(config["manager"], namespace=NAMESPACE)
        self._node = ray.get_runtime_context().get_node_id()
        self._pool: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial over. The old pool's handle stays until the new one has come: Ray
        forgets where an actor is with the last handle to it.
        """
        self._entered = self._at_rung = False
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the trial's next rung or its end."""
        report = self._report()
        self._at_rung = report.status == "rung"
        if not self._at_rung:
            self._manager.leave.remote(self.config["key"])
        return {"report": report, "done": not self._at_rung}

    def _report(self) -> Report:
        key = self.config["key"]
        for _ in range(_POOL_ATTEMPTS):
            if not self._entered:
                device = own_device(self.config["device"])
                entered: Any = self._manager.enter.remote(key, self._node, device)
                self._pool, self._entered = ray.get(entered), True
            try:
                if self._at_rung:
                    answer = self._pool.proceed.remote(key)
                else:
                    answer = self._pool.train.remote(self.config["trial"], self.config["rungs"])
                report: Report = ray.get(answer)
                return report
            except POOL_GONE:  # the next pool continues the trial at its checkpoint
                ray.get(self._manager.lost.remote(self._pool._actor_id.hex()))
                self._entered = self._at_rung = False
        return Report(key, "broken", message="its pool died repeatedly")


def own_device(wanted: str) -> str:
    """The device that this process was given, as torch names it."""
    if wanted not in ("auto", "cuda"):
        return wanted
    gpus = ray.get_gpu_ids()
    return f"cuda:{gpus[0]}" if gpus else "cpu"
