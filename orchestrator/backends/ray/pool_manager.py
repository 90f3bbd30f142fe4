"""The pools of the cluster: an actor that starts them, and the command's handle to it.

There is one pool per GPU, and on a node without GPUs one per group of cores.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.backends.pool_config import PoolConfig
from orchestrator.backends.pool_service import PoolService, Report
from orchestrator.backends.ray.cluster import NAMESPACE, Node, cpu_pools, devices_of, nodes

POLL_SECONDS = 5.0
"""Between two looks at the nodes and pools of the cluster."""
FIRST_SLOTS = {"CPU": 1, "GPU": 16}
"""Trials at once in the pool of a device, as long as no pool has measured what pays there."""
FIRST_ROOM = {"CPU": 8, "GPU": 32}
"""Trials that a device has room for at first."""
_CALLERS = 1000
"""Trials that may wait for a report of one pool at a time."""
_RESTARTS = 10
"""Of a `PoolManager` whose process dies."""
_SLOTS_SECONDS = 0.5
"""How long pools have to say how many slots they have; they may be busy starting."""
POOL_GONE = (RayActorError, ActorUnschedulableError)
"""What Ray raises for a call to a pool that died, or whose node left."""


@dataclass(frozen=True)
class _Place:
    """Where a pool runs: one of `pools` on a device, with `threads` of the node's cores."""

    node: str
    device: str
    number: int
    pools: int
    threads: int


class PoolManager:
    """An actor: the one authority on which pools there are, and which of them has which trial.

    It starts a pool when its node is seen or its first trial comes, and again after it died. It
    owns the pools, so they end with the command, and it runs on the command's node, which does not
    leave the cluster before the command ends. If its process dies, its pools do too, and Ray starts
    it again: it has nothing to remember then, and the trials enter new pools.
    """

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._places: dict[tuple[str, str], list[_Place]] = {}
        self._pools: dict[_Place, Any] = {}
        self._trials: dict[str, _Place] = {}
        self._closed = ""

    def prepare(self, node: str, device: str) -> None:
        """Start the pools of a node's device that are not there yet."""
        for place in self._places_of(node, device):
            self._pool(place)

    def enter(self, key: str, node: str, device: str) -> Any:
        """The pool for a trial: the one that has it already, else the emptiest of this device.

        A trial whose trainable died may still run in its pool, so it must come back there.
        """
        if key not in self._trials:
            self.prepare(node, device)
            trials = Counter(self._trials.values())
            self._trials[key] = min(self._places_of(node, device), key=trials.__getitem__)
        return self._pool(self._trials[key])

    def pool_of(self, key: str) -> Any:
        """The pool that has the trial; None if it has none."""
        return self._pools.get(self._trials[key]) if key in self._trials else None

    def leave(self, key: str) -> None:
        """Forget a trial that has ended."""
        self._trials.pop(key, None)

    def lost(self, actor_id: str) -> None:
        """Forget a dead pool and its trials, which enter another one."""
        for place, pool in list(self._pools.items()):
            if pool._actor_id.hex() == actor_id:
                ray.kill(pool)  # it may be alive but out of reach: never two pools on a device
                del self._pools[place]
                self._trials = {key: at for key, at in self._trials.items() if at != place}

    def slots(self) -> int | None:
        """The most trials that a pool runs at once; None if no pool has said so."""
        asked = [pool.slots.remote() for pool in self._pools.values()]
        if not asked:
            return None
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_SLOTS_SECONDS)
        most = 0
        for answer in answered:
            with suppress(RayError):  # whoever needs that pool will find out
                most = max(most, ray.get(answer) or 0)
        return most or None

    def close(self, message: str, seconds: float = 0.0) -> None:
        """Make every pool refuse what it has and what still comes, with this message.

        Waits at most `seconds` for them to have heard it.
        """
        self._closed = message
        answers = [pool.close.remote(message) for pool in self._pools.values()]
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=seconds)

    def _places_of(self, node: str, device: str) -> list[_Place]:
        if (node, device) not in self._places:
            # Ray's count: `--num-cpus` or a container may leave it fewer cores than there are.
            cores = next((int(found.cores) for found in nodes() if found.id == node), 1)
            pools = cpu_pools(cores) if device == "cpu" else 1
            threads = max(cores // pools, 1)
            self._places[node, device] = [
                _Place(node, device, number, pools, threads) for number in range(pools)
            ]
        return self._places[node, device]

    def _pool(self, place: _Place) -> Any:
        """The pool's handle; the pool is started if need be."""
        if place not in self._pools:
            remote: Any = ray.remote(PoolService)
            there = NodeAffinitySchedulingStrategy(place.node, soft=False)
            options = {"num_cpus": 0, "max_concurrency": _CALLERS, "scheduling_strategy": there}
            part = str(place.number) if place.pools > 1 else ""
            given = (self._config, place.device, place.threads, part, 1 / place.pools)
            pool = self._pools[place] = remote.options(**options).remote(*given)
            if self._closed:
                pool.close.remote(self._closed)
        return self._pools[place]


class Capacity:
    """How many trials may be in flight, and which part of a device each asks for.

    In flight are, for every pool that the cluster has room for, its slots and a few more to refill
    them at once; one device's worth more on a `growing` cluster: pending trials are the demand that
    an autoscaler sees. `slots` is a guess until a pool has measured it.
    """

    def __init__(self, kind: str, slots: int | None, growing: bool) -> None:
        self.kind, self._slots, self._growing = kind, slots or FIRST_SLOTS[kind], growing
        self._room = FIRST_ROOM[kind]
        self._pools, self._cores = 1, 1.0

    def count(self, found: Sequence[Node]) -> None:
        """Follow the nodes of the cluster: how many pools they have, cores of the smallest."""
        cores = [node.cores for node in found if node.cores > 0]
        gpu = self.kind == "GPU"
        pools = sum(node.gpus for node in found) if gpu else sum(map(cpu_pools, cores))
        self._pools, self._cores = max(int(pools), 1), min(cores, default=1.0)

    def measured(self, slots: int | None) -> None:
        """Follow the slots that pools have measured; None changes nothing."""
        self._slots = slots or self._slots

    @property
    def in_flight(self) -> int:
        """Trials that may be in flight."""
        return self._of_a_pool * (self._pools + int(self._growing))

    @property
    def share(self) -> float:
        """What a trial asks for, in GPUs or cores: a device has room for all that its pools take.

        It only ever shrinks by halves: Tune starts a new process for every new share.
        """
        while self._room < self._of_a_pool:
            self._room *= 2
        if self.kind == "GPU":
            return 1 / self._room
        share = self._cores / (self._room * cpu_pools(self._cores))
        return max(int(share * 1e4) / 1e4, 1e-4)  # Ray counts in steps of 1e-4

    @property
    def _of_a_pool(self) -> int:
        """Trials in one pool, with those that wait there to refill a free slot at once."""
        return self._slots + max(self._slots // 4, 1)


class Pools:
    """The command's handle to a `PoolManager`, which it starts; follows the cluster in `capacity`.

    Args:
        config: the pools' settings.
        device: as the user wants it (`auto`, `cpu`, `cuda`, `cuda:N`).
        capacity: kept up to date by `poll`.
    """

    def __init__(self, config: PoolConfig, device: str, capacity: Capacity) -> None:
        self.name = f"pools-{uuid4().hex[:8]}"
        self.capacity = capacity
        self._device = device
        self._prepared: set[str] = set()
        self._next_poll = 0.0
        self._asked: Any = None
        remote: Any = ray.remote(PoolManager)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": self.name, "namespace": NAMESPACE, "num_cpus": 0}
        options |= {"max_restarts": _RESTARTS, "max_task_retries": -1}
        self._manager = remote.options(**options, scheduling_strategy=here).remote(config)

    def poll(self) -> int:
        """Follow the cluster, without waiting for it; how many trials may be in flight now.

        The pools of nodes that joined are started, so a trial that is placed there finds its pool.
        """
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self.capacity.measured(ray.get(self._asked))
            self._asked = None
        if time.monotonic() > self._next_poll:
            self._next_poll = time.monotonic() + POLL_SECONDS
            found = nodes()
            self.capacity.count(found)
            for node in found:
                if node.id not in self._prepared:
                    self._prepared.add(node.id)
                    for device in devices_of(node, self._device, self.capacity.kind):
                        self._manager.prepare.remote(node.id, device)
            if self._asked is None:
                self._asked = self._manager.slots.remote()
        return self.capacity.in_flight

    def stop(self, key: str) -> Report | None:
        """End a trial at its rung, and return its pool's report; None if its pool is gone."""
        try:
            pool = ray.get(self._manager.pool_of.remote(key))
            report: Report | None = None if pool is None else ray.get(pool.stop.remote(key))
        except POOL_GONE:
            return None
        if report is not None:
            self._manager.leave.remote(key)
        return report

    def close(self, message: str, seconds: float = 0.0) -> None:
        """Make every pool refuse its trials with this message; wait at most `seconds` for that."""
        closing = self._manager.close.remote(message, seconds)
        if seconds:
            with suppress(RayError):  # for the last records, which may be missed
                ray.get(closing, timeout=2 * seconds)
