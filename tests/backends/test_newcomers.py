"""Pools of nodes that join start at once, and no node's twice."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.backends.ray.newcomers import Newcomers
from orchestrator.backends.ray.width import PAUSE


def _node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


def test_every_node_is_prepared_once_as_soon_as_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now, prepared, nodes = 100.0, [], [_node("a", CPU=4.0), _node("dead", alive=False, CPU=4.0)]
    remote = SimpleNamespace(remote=lambda *of: prepared.append(of))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    newcomers = Newcomers(SimpleNamespace(prepare=remote), "auto", "GPU")
    cores = Newcomers(SimpleNamespace(prepare=remote), "cpu", "CPU")
    newcomers.look()
    assert prepared == [], "nothing to train on"
    cores.look()
    assert prepared == [("a", "cpu", 4)]
    nodes.append(_node("b", CPU=8.0, GPU=2.0))
    newcomers.look()
    assert len(prepared) == 1, "not asked at every step"
    now += PAUSE
    for _ in range(2):
        newcomers.look()
        now += PAUSE
    assert prepared[1:] == [("b", "cuda:0", 8), ("b", "cuda:1", 8)]
