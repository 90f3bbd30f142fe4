"""Compiled blocks: the same results, two versions for a stack of one shape, and back where not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from adapters.base import Context
from orchestrator.engine import compiled
from orchestrator.engine.pool import Ended, Pool
from orchestrator.spec import Trial
from tests.engine.worlds import CPU, Watched, WatchedPool, assert_same, backbone, search_data, trial

BLOCKS = {"depth": 4}


@pytest.fixture(autouse=True)
def _traced_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What blocks are compiled from, without the compiler, which takes half a minute on a CPU."""
    if "inductor" not in request.node.name:
        monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def _run(trials: list[Trial], compiling: bool, width: int | None = 2) -> tuple[Watched, Pool]:
    """Two at a time: each of the others takes the slot of one that ends."""
    pool = WatchedPool(backbone(**BLOCKS), CPU, width=width, compiled=compiling)
    data, waiting = search_data(), list(trials)
    while waiting or len(pool):
        while waiting and len(pool) < 2:
            pool.add(waiting.pop(0), data)
        for event in pool.advance():
            assert isinstance(event, Ended)
            pool.seen.results[event.result.key] = event.result
    return pool.seen, pool


def _trials(adapter: str, params: dict[str, Any]) -> list[Trial]:
    """Of different dropout rates, where there is one."""
    rate = params.get("dropout")
    own = [{} if rate is None else {"dropout": rate / (1 + seed % 3)} for seed in range(5)]
    return [
        trial(adapter, {**params, **own[seed]}, seed, drop_path=0.1, epochs=2 + seed % 2)
        for seed in range(5)
    ]


@pytest.mark.parametrize(
    ("adapter", "params"),
    [
        ("lora", {"dropout": 0.3}),
        *(
            pytest.param(adapter, params, marks=pytest.mark.long)
            for adapter, params in (
                ("efft2", {"rank": 2, "dropout": 0.3}),
                ("vpt_deep", {"prompts": 2, "dropout": 0.3}),
                ("adaptformer", {"hidden": 3, "dropout": 0.3}),
                ("fact_tt", {"rank": 2, "dropout": 0.3}),
                ("arc", {"rank": 3, "dropout": 0.3}),
            )
        ),
    ],
)
def test_joining_compiles_nothing_and_changes_nothing(adapter: str, params: dict[str, Any]) -> None:
    """A first block, whose input needs no gradient, and one for all others."""
    trials = _trials(adapter, params)
    plain, _ = _run(trials, False)
    assert not counters["stats"]["unique_graphs"]
    found, pool = _run(trials, True)
    assert [group.uncompiled for group in pool.groups] == [""]
    assert counters["stats"]["unique_graphs"] == 2
    for one in trials:
        assert_same(found, plain, one.key, to=1e-4)


def test_float8_products_are_compiled_too() -> None:
    trials = [trial("lora", {}, seed, precision="fp8") for seed in (1, 2)]
    plain, _ = _run(trials, False)
    found, pool = _run(trials, True)
    assert [group.uncompiled for group in pool.groups] == [""]
    assert counters["stats"]["unique_graphs"] == 2
    for one in trials:
        assert_same(found, plain, one.key, to=0.02)  # a step of bf16 or e4m3 more or less


def _break(context: Context, x: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return x.reshape(context.trials, -1, x.shape[-1])


@pytest.mark.parametrize("why", ["beyond the compiler", "too many versions"])
def test_what_cannot_be_compiled_runs_as_it_is(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "beyond the compiler":
        monkeypatch.setattr(Context, "split", _break)
    else:
        monkeypatch.setattr(compiled, "_SHAPES", 1)
    trials = _trials("lora", {})
    plain, _ = _run(trials, False)
    found, pool = _run(trials, True)
    assert pool.groups[0].uncompiled
    for one in trials:
        assert_same(found, plain, one.key, to=0)
    _, measured = _run(trials[:1], True, width=None)
    assert "blocks not compiled: " in measured.groups[0].plan.bound
    assert not measured.groups[0].plan.compiled


@pytest.mark.long
def test_a_measurement_decides() -> None:
    _, pool = _run(_trials("lora", {})[:1], True, width=None)
    plan = pool.groups[0].plan
    gain = float(plan.bound.rpartition("compiled blocks ")[2].removesuffix(" times as fast"))
    assert plan.compiled == (gain > 1) or gain == pytest.approx(1, abs=0.01)
    _, without = _run(_trials("lora", {})[:1], False, width=None)
    assert "compiled" not in without.groups[0].plan.bound


@pytest.mark.long
@pytest.mark.timeout(400)
def test_with_inductor_it_is_the_same() -> None:
    trials = _trials("lora", {"dropout": 0.3})
    plain, _ = _run(trials, False)
    found, pool = _run(trials, True)
    assert [group.uncompiled for group in pool.groups] == [""]
    for one in trials:
        assert_same(found, plain, one.key, to=1e-4)
