"""One Tuner for all studies: what is connected to what."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.backends.plan import GUESSES, HostPlan
from orchestrator.backends.ray.asks import Asks, Rows, Rungs
from orchestrator.backends.ray.cluster import Cluster, alive, connect, device_kind, devices_of
from orchestrator.backends.ray.directory import PoolDirectory
from orchestrator.backends.ray.trainable import PoolTrainable
from orchestrator.backends.ray.width import Width
from orchestrator.search.search import Search


def run(
    search: Search,
    plan: HostPlan,
    cluster: Cluster,
    observe: Callable[[], None] = lambda: None,
) -> None:
    """Runs every trial that `search` asks for on a Ray cluster; returns when it is done.

    `ray_settings.apply` must have been called before this module is imported. Raises
    `BackendError` if the cluster cannot be reached or a pool refuses its work.
    """
    storage = plan.out / "tune"
    try:
        connect(cluster)
        _drive(search, plan, cluster, storage, observe)
    finally:
        ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)


def _drive(
    search: Search, plan: HostPlan, cluster: Cluster, storage: Path, observe: Callable[[], None]
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
    for node in alive():  # their pools start while Tune does
        for device in devices_of(cluster.device, kind, node["Resources"]):
            cores = int(node["Resources"].get("CPU", 1))
            directory.prepare.remote(node["NodeID"], device, cores)
    asks = Asks(search, plan, width, directory, observe)

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
    tuner.fit()
    asks.close()
