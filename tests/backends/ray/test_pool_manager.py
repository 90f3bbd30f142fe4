"""Which pool a trial enters, and how many trials are in flight; plain objects stand for actors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from orchestrator.backends.ray import pool_manager
from orchestrator.backends.ray.cluster import Node
from orchestrator.backends.ray.pool_manager import Capacity, PoolManager, Pools
from tests.backends.worlds import pool_config

SMALL, LARGE = Node("1" * 56, "small", cores=1), Node("2" * 56, "large", cores=10)


class Pool:
    """Stands for the actor of a pool: where it was started, with what, and what closed it."""

    def __init__(self, number: int, node: str, arguments: tuple[Any, ...]) -> None:
        self._actor_id = SimpleNamespace(hex=lambda: str(number))
        self.node, self.arguments, self.closed = node, arguments, ""
        self.measured: Any = None
        self.slots = SimpleNamespace(remote=lambda: self.measured)
        self.close = SimpleNamespace(remote=lambda message: setattr(self, "closed", message))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """The pools that were started; Ray's functions hand values through."""
    pools: list[Pool] = []

    def options(*, scheduling_strategy: Any, **_: Any) -> Any:
        assert not scheduling_strategy.soft

        def remote(config: Any, *arguments: Any) -> Pool:
            pools.append(Pool(len(pools), scheduling_strategy.node_id, arguments))
            return pools[-1]

        return SimpleNamespace(remote=remote)

    def get(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(ray, "remote", lambda _: SimpleNamespace(options=options))
    monkeypatch.setattr(ray, "wait", lambda asked, **_: (asked, []))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(pool_manager, "nodes", lambda: [SMALL, LARGE])
    return pools


@pytest.fixture
def manager(started: list[Pool], tmp_path: Path) -> PoolManager:
    return PoolManager(pool_config(tmp_path, tmp_path, "token"))


def test_trials_spread_over_the_groups_of_a_nodes_cores(
    manager: PoolManager, started: list[Pool]
) -> None:
    entered = [manager.enter(f"trial {n}", LARGE.id, "cpu") for n in range(8)]
    assert entered == started * 2
    assert [pool.arguments for pool in started] == [("cpu", 2, str(n), 0.25) for n in range(4)]
    far = manager.enter("far", SMALL.id, "cpu")
    assert (far.node, far.arguments) == (SMALL.id, ("cpu", 1, "", 1.0))
    manager.leave("trial 6")
    assert manager.enter("next", LARGE.id, "cpu") is started[2], "the emptiest"


def test_a_gpu_has_one_pool_with_all_cores(manager: PoolManager, started: list[Pool]) -> None:
    for n in range(6):
        assert manager.enter(f"t{n}", LARGE.id, f"cuda:{n % 2}") is started[n % 2]
    assert [pool.arguments for pool in started] == [
        ("cuda:0", 10, "", 1.0),
        ("cuda:1", 10, "", 1.0),
    ]


def test_a_trial_comes_back_to_the_pool_that_has_it(manager: PoolManager) -> None:
    assert manager.pool_of("trial") is None
    pool = manager.enter("trial", LARGE.id, "cpu")
    assert manager.enter("trial", SMALL.id, "cpu") is pool, "its trainable died"
    assert manager.pool_of("trial") is pool
    manager.leave("trial")
    assert manager.enter("trial", SMALL.id, "cpu").node == SMALL.id


def test_a_dead_pool_is_replaced_once(
    manager: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    first = manager.enter("trial", LARGE.id, "cuda:0")
    dead = first._actor_id.hex()
    manager.lost(dead)
    assert killed == [first], "out of reach is not dead: two pools must not share a device"
    assert manager.pool_of("trial") is None
    assert manager.enter("trial", SMALL.id, "cuda:0").node == SMALL.id, "its node may be gone too"
    again = manager.enter("other", LARGE.id, "cuda:0")
    assert again is not first
    manager.lost(dead)
    assert killed == [first], "the others that find it dead change nothing"
    assert manager.pool_of("other") is again


def test_a_closed_manager_closes_its_pools_and_those_to_come(
    manager: PoolManager, started: list[Pool]
) -> None:
    manager.enter("one", LARGE.id, "cuda:0")
    manager.close("the end")
    manager.enter("two", LARGE.id, "cuda:1")
    assert [pool.closed for pool in started] == ["the end"] * 2


def test_the_widest_pool_speaks_for_all(manager: PoolManager, started: list[Pool]) -> None:
    assert manager.slots() is None
    manager.prepare(LARGE.id, "cpu")
    assert manager.slots() is None
    for pool, measured in zip(started, (None, 4, 2, ActorDiedError()), strict=True):
        pool.measured = measured
    assert manager.slots() == 4


def test_pools_of_nodes_that_join_start_at_once_and_no_nodes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, found, prepared = 100.0, [LARGE], list[tuple[str, str]]()
    manager = SimpleNamespace(
        prepare=SimpleNamespace(remote=lambda *which: prepared.append(which)),
        slots=SimpleNamespace(remote=lambda: 3),
    )
    actor = SimpleNamespace(remote=lambda _: manager)
    monkeypatch.setattr(ray, "remote", lambda _: SimpleNamespace(options=lambda **_: actor))
    context = SimpleNamespace(get_node_id=lambda: LARGE.id)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "wait", lambda asked, **_: ([], asked))
    monkeypatch.setattr(pool_manager, "nodes", lambda: found)
    monkeypatch.setattr(pool_manager.time, "monotonic", lambda: now)
    pools = Pools(
        pool_config(tmp_path, tmp_path, "token"), "auto", Capacity("GPU", 16, growing=False)
    )
    assert pools.poll() == 20
    assert prepared == [], "nothing to train on"
    found.append(Node("3" * 56, "gpus", gpus=2, cores=8))
    assert pools.poll() == 20
    assert prepared == [], "not looked at at every step"
    for _ in range(2):
        now += pool_manager.POLL_SECONDS + 1
        assert pools.poll() == 40, "nobody waits for what pools have measured"
    assert prepared == [("3" * 56, "cuda:0"), ("3" * 56, "cuda:1")]
    monkeypatch.setattr(ray, "wait", lambda asked, **_: (asked, []))
    assert pools.poll() == 8, "3 slots and 1 to refill them, in two pools"


def test_trials_in_flight_follow_the_cluster() -> None:
    """16 slots and 4 more to refill them: times 8 groups of cores, 4 GPUs, 4 GPUs and one more."""
    kinds = [("CPU", False), ("GPU", False), ("GPU", True)]
    capacities = [Capacity(kind, 16, growing) for kind, growing in kinds]
    for capacity in capacities:
        capacity.count([Node("a", "a", cores=8), Node("b", "b", gpus=4, cores=8)])
    assert [capacity.in_flight for capacity in capacities] == [160, 80, 100]
    for capacity in capacities:
        capacity.count([Node("b", "b", gpus=1, cores=3)])
    assert [capacity.in_flight for capacity in capacities] == [60, 20, 40]
    for capacity in capacities:
        capacity.measured(3)
        capacity.measured(None)
    assert [capacity.in_flight for capacity in capacities] == [12, 4, 8]


@pytest.mark.parametrize(
    ("cores", "share"), [([2.0], 0.125), ([0.0, 16.0], 0.5), ([2.0, 16.0], 0.125)]
)
def test_the_smallest_node_with_cores_sets_a_trials_share(cores: list[float], share: float) -> None:
    capacity = Capacity("CPU", 4, growing=False)
    capacity.count([Node(str(count), "node", cores=count) for count in cores])
    assert capacity.share == share


def test_a_device_has_room_for_all_that_its_pool_can_have() -> None:
    """The share only ever shrinks: every new one starts new processes."""
    capacity = Capacity("GPU", None, growing=True)
    assert capacity.share == 1 / 32
    for slots, room in ((8, 32), (25, 32), (26, 32), (27, 64), (64, 128), (2, 128)):
        capacity.measured(slots)
        assert capacity.share == 1 / room
