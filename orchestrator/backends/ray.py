"""Ray Tune drives the sweep: one Tuner for all studies. The only file that imports ray.

Driver    `_Asks` (a Searcher) hands Tune what `Search.ask` gives; `_Rungs` (a scheduler) answers
          rung results with what `Search.rung` says. Tune hears nothing else.
Trainable a light process without torch that holds a fraction of a device and forwards its trial to
          the pool of that device; reused between trials.
Pool      one actor per GPU (or group of cores), started by the directory on first demand.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.backends.plan import GUESSES, ROOMS, HostPlan, spare
from orchestrator.backends.pool_actor import PoolService, Report
from orchestrator.errors import BackendError
from orchestrator.ledger import Ledger
from orchestrator.places import Places
from orchestrator.search.search import Done, Search
from orchestrator.spec import Trial, TrialResult

NAMESPACE = "orchestrate"
CPU_POOLS = 4
"""Pools on a node without GPUs, at most; its cores are shared out among them."""
_POOL_RETRIES = 5
_PAUSE = 5.0
"""Seconds from one look at nodes and pools to the next."""
_CALLERS = 1000
"""Trials that may wait for a report of one pool at a time."""


@dataclass(frozen=True)
class Cluster:
    """What to run on: an address (None starts a local cluster), the device, trials per device."""

    address: str | None = None
    device: str = "auto"
    width: int | None = None


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
        _connect(cluster)
        _drive(search, plan, cluster, storage, observe)
    finally:
        ray.shutdown()
        shutil.rmtree(storage, ignore_errors=True)


def _connect(cluster: Cluster) -> None:
    if cluster.address:
        _check_reachable(cluster.address)
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "namespace": NAMESPACE,
    }
    try:
        if cluster.address:
            ray.init(address=cluster.address, **quiet)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        where = f"Ray cluster '{cluster.address}'" if cluster.address else "a local Ray cluster"
        why, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise _unusable(where, why) from error


def _check_reachable(address: str) -> None:
    """Knocks at HOST:PORT first: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto` and the like
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unusable(f"Ray cluster '{address}'", str(error)) from error


def _unusable(where: str, why: str) -> BackendError:
    return BackendError(
        f"{where} cannot be used: {why.rstrip('.')}. Start one (`ray up cluster.yaml`, "
        "`ray start --head`), leave --address out for a local one, or use --backend local."
    )


def _drive(
    search: Search, plan: HostPlan, cluster: Cluster, storage: Path, observe: Callable[[], None]
) -> None:
    kind = _device_kind(cluster.device)
    width = Width(kind, cluster.width or GUESSES[kind], growing=cluster.address is not None)
    # Tune's own bound is one pending trial for a custom Searcher; ours is `Width`.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "100000"
    name = f"directory-{uuid4().hex[:8]}"
    remote: Any = ray.remote(PoolDirectory)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = remote.options(name=name, num_cpus=0, scheduling_strategy=here)
    directory = actor.remote(plan)
    for node in _alive():  # their pools start while Tune does
        for device in _devices(cluster.device, kind, node["Resources"]):
            cores = int(node["Resources"].get("CPU", 1))
            directory.prepare.remote(node["NodeID"], device, cores)
    asks = _Asks(search, plan, width, directory, observe)

    def request(config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([{kind: config["share"]}])

    trainable = tune.with_resources(PoolTrainable, request)
    tuner = tune.Tuner(
        trainable,
        param_space={"directory": name, "device": cluster.device},
        tune_config=tune.TuneConfig(
            search_alg=asks, scheduler=_Rungs(asks), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Rows(asks)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
    asks.close()


def _device_kind(device: str) -> str:
    """The resource to ask for: GPU for `cuda`, CPU for `cpu`, whatever is there for `auto`."""
    if device == "auto":
        return "GPU" if ray.cluster_resources().get("GPU", 0) > 0 else "CPU"
    return "GPU" if device.startswith("cuda") else "CPU"


class Width:
    """How many trials may be in flight, and which part of a device each asks for.

    In flight are, for every pool that the cluster has room for, its slots and a few more to refill
    them at once; one device's worth more on a `growing` cluster: pending trials are the demand that
    an autoscaler sees. `slots` is a guess until a pool says what it measured.
    """

    def __init__(self, kind: str, slots: int, growing: bool) -> None:
        self.kind, self.slots, self._growing = kind, slots, growing
        self._room = ROOMS[kind]
        self._pools, self._until = 1, 0.0

    def heard(self, slots: int | None) -> None:
        """What a pool says of itself; None: nothing."""
        if slots:
            self.slots = slots

    def planned(self) -> int:
        """Trials in flight."""
        return (self.slots + spare(self.slots)) * (self._count() + int(self._growing))

    def share(self) -> float:
        """Of a GPU, or in cores: so that a device has room for all that its pools can have.

        Only ever halved: Tune starts a new process for every new share.
        """
        while self._room < self.slots + spare(self.slots):
            self._room *= 2
        if self.kind == "GPU":
            return 1 / self._room
        cores = min(_cores(), default=1.0)
        return max(int(cores / (self._room * _cpu_pools(int(cores))) * 1e4) / 1e4, 1e-4)

    def _count(self) -> int:
        """Pools; counted anew every few seconds, since nodes come and go."""
        if time.monotonic() > self._until:
            if self.kind == "GPU":
                found = sum(node["Resources"].get("GPU", 0) for node in _alive())
            else:
                found = sum(_cpu_pools(int(cores)) for cores in _cores())
            self._pools, self._until = max(int(found), 1), time.monotonic() + _PAUSE
        return self._pools


def _devices(wanted: str, kind: str, resources: dict[str, float]) -> list[str]:
    """The devices of a node that are certain to be used, as torch names them."""
    if kind == "GPU":
        found = [f"cuda:{index}" for index in range(int(resources.get("GPU", 0)))]
        return found if wanted in ("auto", "cuda") else []
    return ["cpu"] if resources.get("CPU", 0) > 0 else []


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _cores() -> list[float]:
    """Of every node that has any."""
    found = [float(node["Resources"].get("CPU", 0)) for node in _alive()]
    return [cores for cores in found if cores > 0]


def _cpu_pools(cores: int) -> int:
    """Pools of a node without GPUs."""
    return max(min(cores, CPU_POOLS), 1)


class PoolDirectory:
    """Starts a pool when its first trainable arrives, and again if it died.

    One pool per GPU; on a node without, one per group of cores. It owns the pools: they live
    exactly as long as the command, and it lives where the command does: machines come and go.
    """

    def __init__(self, plan: HostPlan) -> None:
        self._plan = plan
        self._pools: dict[str, Any] = {}
        self._parts: dict[str, tuple[int, int]] = {}
        self._homes: dict[str, str] = {}
        self._questions: dict[str, Any] = {}
        self._slots: dict[str, int | None] = {}
        self._closed = ""

    def prepare(self, node: str, device: str, cores: int) -> list[str]:
        """Names of a device's pools; those that are not there yet are started."""
        groups = _cpu_pools(cores) if device == "cpu" else 1
        names = [f"{node} {device} {n}" for n in range(groups)]
        for name in names:
            self._parts.setdefault(name, (max(cores // groups, 1), groups))
            self.pool(name)
        return names

    def enter(self, key: str, node: str, device: str, cores: int) -> tuple[str, Any]:
        """Name and handle of a trial's pool: the one that has it already, else the emptiest here.

        A trial whose trainable died may still be running in its pool; there it must come back.
        """
        if key not in self._homes:
            crowd = Counter(self._homes.values())
            names = self.prepare(node, device, cores)
            self._homes[key] = min(names, key=crowd.__getitem__)
        return self._homes[key], self.pool(self._homes[key])

    def slots(self) -> int | None:
        """The most that a pool runs at once, as far as they have answered; None if none has."""
        for name in self._pools.keys() - self._questions.keys():
            self._questions[name] = self._pools[name].slots.remote()
        for name, question in list(self._questions.items()):
            if ray.wait([question], timeout=0)[0]:
                del self._questions[name]
                with suppress(RayActorError):  # whoever needs that pool will find out
                    self._slots[name] = ray.get(question)
        return max((slots for slots in self._slots.values() if slots), default=None)

    def leave(self, key: str) -> None:
        """The trial is over, here at least."""
        self._homes.pop(key, None)

    def lost(self, name: str, dead: str) -> None:
        """Forgets the pool with actor id `dead`: its trials enter another one."""
        known = self._pools.get(name)
        if known is not None and known._actor_id.hex() == dead:
            ray.kill(known)  # it may be out of reach and alive: never two pools on a device
            del self._pools[name]
            self._slots.pop(name, None)
            self._questions.pop(name, None)
            self._homes = {key: home for key, home in self._homes.items() if home != name}

    def pool(self, name: str) -> Any:
        """The pool's handle, started if need be."""
        if name not in self._pools:
            node, device, number = name.split(" ")
            threads, groups = self._parts[name]
            affinity = NodeAffinitySchedulingStrategy(node, soft=False)
            options = {"num_cpus": 0, "max_concurrency": _CALLERS}
            remote: Any = ray.remote(PoolService)
            actor = remote.options(**options, scheduling_strategy=affinity)
            part = number if groups > 1 else ""
            self._pools[name] = actor.remote(self._plan, device, threads, part, 1 / groups)
            if self._closed:
                self._pools[name].close.remote(self._closed)
        return self._pools[name]

    def close(self, message: str) -> None:
        """Lets every pool refuse what it has and what still comes, with this message."""
        self._closed = message
        for pool in self._pools.values():
            pool.close.remote(message)


class PoolTrainable(tune.Trainable):
    """One Tune trial: forwards its trial to the pool of the device it was given, and waits."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begins with the first trial."""
        self._pool: Any = None
        self._directory = ray.get_actor(config["directory"], namespace=NAMESPACE)
        self._place, self._at_rung = "", False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next trial over in the same process."""
        self._place, self._pool, self._at_rung = "", None, False
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the trial's next rung or its end."""
        report = self._report()
        self._at_rung = report["status"] == "rung"
        if not self._at_rung:
            self._directory.leave.remote(self.config["key"])
        return {**report, "pool": self._place, "done": not self._at_rung}

    def _report(self) -> Report:
        for _ in range(_POOL_RETRIES):
            if self._pool is None:
                self._enter()
            try:
                if self._at_rung:
                    answer = self._pool.proceed.remote(self.config["key"])
                else:
                    answer = self._pool.train.remote(self.config["trial"], self.config["rungs"])
                report: Report = ray.get(answer)
                return report
            except (RayActorError, ActorUnschedulableError):
                # The pool died: the next one takes the trial up at its checkpoint.
                ray.get(self._directory.lost.remote(self._place, self._pool._actor_id.hex()))
                self._pool, self._at_rung = None, False
        return {
            "status": "broken",
            "epoch": 0,
            "value": -1.0,
            "message": "its pool died repeatedly",
        }

    def _enter(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        device, cores = _own_device(self.config["device"]), len(os.sched_getaffinity(0))
        entered: Any = self._directory.enter.remote(self.config["key"], node, device, cores)
        self._place, self._pool = ray.get(entered)


def _own_device(wanted: str) -> str:
    """The device that this process was given, as torch names it."""
    if wanted not in ("auto", "cuda"):
        return wanted
    gpus = ray.get_gpu_ids()
    return f"cuda:{gpus[0]}" if gpus else "cpu"


class _Asks(Searcher):
    """`Search` as Tune wants it. It never raises: what goes wrong is kept and raised by `close`."""

    def __init__(
        self,
        search: Search,
        plan: HostPlan,
        width: Width,
        directory: Any,
        observe: Callable[[], None],
    ) -> None:
        super().__init__()
        self.search = search
        self._ledger = Ledger(Places(plan.out).ledger)
        self._width, self._directory, self._observe = width, directory, observe
        self._live: dict[str, str] = {}
        self._told: set[str] = set()
        self._asked: Any = None
        self._until = 0.0
        self._error: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None to wait, FINISHED at the end."""
        if self._error:
            return str(Searcher.FINISHED)
        try:
            self._observe()
            self._listen()
            if len(self._live) >= self._width.planned():
                return None
            asked = self.search.ask()
        except Exception as error:  # a Searcher that raises would end the sweep with a traceback
            self.refuse(error)
            return str(Searcher.FINISHED)
        if isinstance(asked, Trial):
            self._live[trial_id] = asked.key
            rungs = list(self.search.rungs(asked))
            share = self._width.share()
            return {"trial": asked.to_dict(), "key": asked.key, "rungs": rungs, "share": share}
        return str(Searcher.FINISHED) if isinstance(asked, Done) else None

    def _listen(self) -> None:
        """Hears what the pools have measured; asks every few seconds and never waits for it."""
        if self._asked is None and time.monotonic() > self._until:
            self._asked = self._directory.slots.remote()
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._width.heard(ray.get(self._asked))
            self._asked, self._until = None, time.monotonic() + _PAUSE

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Rungs are the scheduler's."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The row was told by `_Rows`, or is looked up; a trial that left none has failed."""
        key = self._live.pop(trial_id, "")
        status = (result or {}).get("status", "lost")
        message = str((result or {}).get("message", "its process died"))
        if status == "refused":
            self.refuse(BackendError(message))
        try:
            if key not in self._told and (row := self._ledger.result(key)):
                self.search.tell(row)
            self._told.discard(key)
            self.search.failed(key, message)  # no effect on a trial whose row was told
            self._observe()
        except Exception as problem:  # as in suggest
            self.refuse(problem)

    def take(self, row: TrialResult) -> None:
        """Tells the search a row as its pool recorded it: it need not be read from the ledger."""
        try:
            self.search.tell(row)
            self._told.add(row.key)
        except Exception as problem:  # as in suggest
            self.refuse(problem)

    def stops(self, result: dict[str, Any]) -> bool:
        """Whether the trial ends at its rung; if so its record is in the ledger already.

        When its pool is gone it goes on: its trainable finds out, and it reports the rung again.
        """
        if self._error:
            return True
        try:
            if self.search.rung(result["key"], result["epoch"], result["value"]) == "continue":
                return False
            pool = ray.get(self._directory.pool.remote(result["pool"]))
            report: Report = ray.get(pool.stop.remote(result["key"]))
        except (RayActorError, ActorUnschedulableError):
            return False
        except Exception as error:  # as in suggest
            self.refuse(error)
            return True
        self._directory.leave.remote(result["key"])
        if report["status"] == "refused":
            self.refuse(BackendError(report["message"]))
        return bool(report["status"] != "broken")

    def refuse(self, error: Exception) -> None:
        """Ends the sweep in good order, with this error; the pools let go of their trials."""
        if self._error is None:
            self._error = error
            self._directory.close.remote(f"the sweep ends: {error}")

    def close(self) -> None:
        """Raises what went wrong, if anything did."""
        if self._error:
            raise self._error

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its Tuner at the start, and nobody reads it back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger and the asks are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class _Rows(tune.Callback):
    """Takes the rows out of what trainables report: Tune would copy them and keep them all."""

    def __init__(self, asks: _Asks) -> None:
        self._asks = asks

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Called before the search hears that the trial is over."""
        row = result.pop("row", None)
        if row is not None:
            self._asks.take(row)


class _Rungs(FIFOScheduler):
    """Each study's own stopping rule as Tune's scheduler."""

    def __init__(self, asks: _Asks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._asks = asks

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continues a trial that is not at a rung, or that its rule lets go on."""
        if result.get("status") == "rung" and self._asks.stops(result):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)
