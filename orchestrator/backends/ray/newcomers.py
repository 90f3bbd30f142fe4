"""Nodes that join: their pools start at once, so that a trial that is placed there finds one."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.backends.ray.cluster import alive, cores_of, devices_of
from orchestrator.backends.ray.width import PAUSE


class Newcomers:
    """Starts the pools of every node once, as soon as the node is seen.

    Args:
        directory: the actor `PoolDirectory`.
        device: as the user wants it (`auto`, `cpu`, `cuda`, `cuda:N`).
        kind: the resource that trials ask for, GPU or CPU.
    """

    def __init__(self, directory: Any, device: str, kind: str) -> None:
        self._directory, self._device, self._kind = directory, device, kind
        self._known: set[str] = set()
        self._until = 0.0

    def look(self) -> None:
        """Call it often: it looks every few seconds, and waits for nothing."""
        if time.monotonic() < self._until:
            return
        self._until = time.monotonic() + PAUSE
        for node in alive():
            if node["NodeID"] not in self._known:
                self._known.add(node["NodeID"])
                self._prepare(node["NodeID"], node["Resources"])

    def _prepare(self, node: str, resources: dict[str, float]) -> None:
        for device in devices_of(self._device, self._kind, resources):
            self._directory.prepare.remote(node, device, cores_of(resources))
