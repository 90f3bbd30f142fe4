"""Which pool has which trial: the actor that starts pools, and starts them again."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.backends.plan import HostPlan
from orchestrator.backends.pool_actor import PoolService
from orchestrator.backends.ray.cluster import cpu_pools

_CALLERS = 1000
"""Trials that may wait for a report of one pool at a time."""


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
        groups = cpu_pools(cores) if device == "cpu" else 1
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

    def close(self, message: str, patience: float = 0.0) -> None:
        """Lets every pool refuse what it has and what still comes, with this message.

        Waits for them to have heard it, for `patience` seconds at most.
        """
        self._closed = message
        answers = [pool.close.remote(message) for pool in self._pools.values()]
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=patience)
