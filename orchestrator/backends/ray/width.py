"""How many trials may be in flight on the cluster, and how much of a device each asks for."""

from __future__ import annotations

import time

from orchestrator.backends.plan import ROOMS, spare
from orchestrator.backends.ray.cluster import alive, cores_of_nodes, cpu_pools

PAUSE = 5.0
"""Seconds from one look at nodes and pools to the next."""


class Width:
    """How many trials may be in flight, and which part of a device each asks for.

    In flight are, for every pool that the cluster has room for, its slots and a few more to refill
    them at once; one device's worth more on a `growing` cluster: pending trials are the demand that
    an autoscaler sees. `slots` is a guess until a pool says what it measured.
    """

    def __init__(self, kind: str, slots: int, growing: bool) -> None:
        self.kind, self.slots, self._growing = kind, slots, growing
        self._room = ROOMS[kind]
        self._pools, self._cores, self._until = 1, 1.0, 0.0

    def heard(self, slots: int | None) -> None:
        """What a pool says of itself; None: nothing."""
        if slots:
            self.slots = slots

    def planned(self) -> int:
        """Trials in flight."""
        self._look()
        return (self.slots + spare(self.slots)) * (self._pools + int(self._growing))

    def share(self) -> float:
        """Of a GPU, or in cores: so that a device has room for all that its pools can have.

        Only ever halved: Tune starts a new process for every new share.
        """
        while self._room < self.slots + spare(self.slots):
            self._room *= 2
        if self.kind == "GPU":
            return 1 / self._room
        self._look()
        pools = self._room * cpu_pools(int(self._cores))
        return max(int(self._cores / pools * 1e4) / 1e4, 1e-4)

    def _look(self) -> None:
        """Counts pools and the smallest node's cores; every few seconds, as nodes come and go."""
        if time.monotonic() < self._until:
            return
        cores = cores_of_nodes()
        if self.kind == "GPU":
            found = sum(node["Resources"].get("GPU", 0) for node in alive())
        else:
            found = sum(cpu_pools(int(some)) for some in cores)
        self._pools, self._cores = max(int(found), 1), min(cores, default=1.0)
        self._until = time.monotonic() + PAUSE
