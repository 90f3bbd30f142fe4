"""The width is planned from what a device does, here from invented devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from orchestrator.engine import width as width_module
from orchestrator.engine.frozen import FrozenBackbone
from orchestrator.engine.group import Group
from orchestrator.engine.memory import out_of_memory
from orchestrator.engine.pool import Pool
from orchestrator.engine.width import WidthMeasurement, plan_width
from tests.engine.worlds import CPU, backbone, run, search_data, trial

LOTS = 10**15


def device(
    overhead: float, each: float, slot: int = 1, room: int = LOTS
) -> Callable[[int], WidthMeasurement]:
    """A step costs `overhead` plus `each` second per trial, and a slot so many bytes."""

    def measure(width: int) -> WidthMeasurement:
        if width * slot > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return WidthMeasurement(width, overhead + each * width, width * slot)

    return measure


@pytest.mark.parametrize(
    ("overhead", "width"), [(0.0, 1), (0.02, 1), (0.12, 2), (1.0, 16), (10.0, 64)]
)
def test_it_grows_as_long_as_throughput_does(overhead: float, width: int) -> None:
    plan = plan_width(device(overhead, 1.0), LOTS, most=64)
    assert plan.width == width
    assert plan.bound == ("at most 64" if width == 64 else "throughput")
    best = max(step.throughput for step in plan.measured)
    assert plan.width / (overhead + plan.width) >= 0.95 * best


@pytest.mark.parametrize(("free", "width"), [(1, 1), (40, 2), (45, 4), (90, 8), (900, 64)])
def test_it_does_not_try_what_would_not_fit(free: int, width: int) -> None:
    tried: list[int] = []
    measure = device(10.0, 0.1, slot=10)

    def noted(trials: int) -> WidthMeasurement:
        tried.append(trials)
        return measure(trials)

    plan = plan_width(noted, free, most=64)
    assert (plan.width, max(tried)) == (width, width)
    assert plan.bound == ("at most 64" if width == 64 else "memory")
    assert plan.slot == (10 if width > 1 else 0)


def test_running_out_of_memory_ends_the_search() -> None:
    plan = plan_width(device(10.0, 0.1, room=20), LOTS, most=64)
    assert (plan.width, plan.bound) == (16, "memory")


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(width: int) -> WidthMeasurement:
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        plan_width(broken, LOTS, most=4)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried 9 bytes."), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)  # fmt: skip
def test_what_counts_as_out_of_memory(error: Exception, is_it: bool) -> None:
    assert out_of_memory(error) is is_it


def test_the_cpus_own_message_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_the_warm_up_benchmark_measures_and_leaves_no_trace() -> None:
    data = search_data()
    one = trial("efft2", {"rank": 2, "dropout": 0.3}, 3, drop_path=0.2)
    pool = Pool(backbone(), CPU)
    pool.add(one, data)
    (group,) = pool.groups
    assert group.plan.measured[0].width == 1
    assert all(step.seconds > 0 for step in group.plan.measured)
    assert group.plan.width in [step.width for step in group.plan.measured]
    assert pool.work.steps == 0
    results = {}
    while len(pool):
        results |= {e.result.key: e.result for e in pool.advance()}  # type: ignore[union-attr]
    found, expected = results[one.key], run([(one, data)]).results[one.key]
    assert [p.loss for p in found.curve] == [p.loss for p in expected.curve]
    assert found.correct == expected.correct


def test_a_fixed_width_is_not_benchmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width_module, "_seconds", lambda *_: pytest.fail("a benchmark"))
    pool = Pool(backbone(), CPU, width=5)
    pool.add(trial(), search_data())
    assert (pool.slots, pool.groups[0].plan.bound) == (5, "as asked for")


def test_out_of_memory_in_the_benchmark_bounds_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Group._losses

    def limited(self: Group, live: object) -> torch.Tensor:
        if len(self.trainings) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, live)  # type: ignore[arg-type]

    monkeypatch.setattr(Group, "_losses", limited)
    monkeypatch.setattr(width_module, "_seconds", lambda step, _: (step(), 1.0)[1])
    pool = Pool(backbone(), CPU)
    pool.add(trial(), search_data())
    assert (pool.slots, pool.groups[0].plan.bound) == (2, "memory")


def test_operations_of_the_frozen_backbone() -> None:
    """ViT of 2 blocks, D = 32, 17 tokens, patches of 8·8·3, against the layers written out."""
    pool = Pool(backbone(), CPU, width=1)
    pool.add(trial(), search_data())
    frozen = pool.groups[0].frozen
    assert isinstance(frozen, FrozenBackbone)
    tokens, width = 17, 32
    layers = 2 * tokens * (3 * width**2 + width**2 + 2 * 4 * width**2)
    attention = 2 * 2 * tokens**2 * width
    embedding = 2 * 16 * (8 * 8 * 3) * width
    counted = frozen.flops
    assert counted.forward(None) == embedding + 2 * (layers + attention)
    assert counted.forward(1) == layers + attention
    assert counted.training(None, 0) == embedding + 4 * layers + 6 * attention
    assert counted.training(1, 1) == 2 * layers + 3 * attention
    assert counted.forward(frozen.features) == counted.training(3, 3) == 0
