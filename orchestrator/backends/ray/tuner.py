"""One Tuner for all studies: what is connected to what."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.backends.plan import GUESSES, HostPlan
from orchestrator.backends.ray.asks import Asks, Rows, Rungs
from orchestrator.backends.ray.cluster import Cluster, connect, device_kind
from orchestrator.backends.ray.directory import PoolDirectory
from orchestrator.backends.ray.lookups import remembered
from orchestrator.backends.ray.newcomers import Newcomers
from orchestrator.backends.ray.nodes import check_places
from orchestrator.backends.ray.trainable import PoolTrainable
from orchestrator.backends.ray.width import Width
from orchestrator.search.search import Search

_LAST_WORDS = 3.0
"""Seconds that pools have to write what they note every few seconds."""


def run(
    search: Search,
    plan: HostPlan,
    cluster: Cluster,
    observe: Callable[[], None] = lambda: None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Runs every trial that `search` asks for on a Ray cluster; returns when it is done.

    `ray_settings.apply` must have been called before this module is imported. Raises
    `BackendError` if the cluster cannot be reached or a pool refuses its work. `say` hears of
    storage that refuses.
    """
    # Not in the sweep's folder: nobody reads it back, and that disk may be full.
    storage = Path(tempfile.mkdtemp(prefix="orchestrate-tune-"))
    heeded = signal.getsignal(signal.SIGTERM)
    try:
        connect(cluster)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heeded)  # Ray has taken it, and would just die of it
        if cluster.address:
            check_places(plan.uri or plan.out, plan.suite, plan.data_root, cluster.device)
        _drive(search, plan, cluster, storage, observe, say)
    finally:
        ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)


def _drive(
    search: Search,
    plan: HostPlan,
    cluster: Cluster,
    storage: Path,
    observe: Callable[[], None],
    say: Callable[[str], None] | None,
) -> None:
    kind = device_kind(cluster.device)
    width = Width(kind, cluster.width or GUESSES[kind], growing=cluster.address is not None)
    # Tune's own bound is one pending trial for a custom Searcher; ours is `Width`.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "100000"
    name = f"directory-{uuid4().hex[:8]}"
    remote: Any = ray.remote(PoolDirectory)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = remote.options(name=name, num_cpus=0, scheduling_strategy=here)
    directory = actor.remote(plan)
    newcomers = Newcomers(directory, cluster.device, kind)
    newcomers.look()  # the pools start while Tune does

    def watch() -> None:
        newcomers.look()
        observe()

    asks = Asks(search, plan, width, directory, watch, say)

    def request(config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([{kind: config["share"]}])

    trainable = tune.with_resources(PoolTrainable, request)
    tuner = tune.Tuner(
        trainable,
        param_space={"directory": name, "device": cluster.device},
        tune_config=tune.TuneConfig(
            search_alg=asks, scheduler=Rungs(asks), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            verbose=0,
            callbacks=[Rows(asks)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with remembered():
        tuner.fit()
    with suppress(RayError):  # pools note their last figures; those that cannot are not missed
        ray.get(directory.close.remote("the sweep is over", _LAST_WORDS), timeout=2 * _LAST_WORDS)
    asks.close()
