from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.errors import InvalidInput
from orchestrator.search.samplers import (
    SAMPLERS,
    Observation,
    make_sampler,
    planned_configurations,
    propose,
)
from search_spaces import contains, grid_point, grid_size

SPACE: dict[str, BaseDistribution] = {
    "scale": CategoricalDistribution((0.01, 0.1, 1.0, 10.0, 100.0)),
    "rank": CategoricalDistribution((8, 16, 32)),
}
OPEN: dict[str, BaseDistribution] = {
    "scale": FloatDistribution(0.01, 100, log=True),
    "dropout": FloatDistribution(0.0, 0.3, step=0.1),
    "rank": IntDistribution(1, 64, log=True),
    "init": CategoricalDistribution(("u", "v")),
}
ALL = pytest.mark.parametrize("name", sorted(SAMPLERS))


def observation(values: dict[str, Any]) -> Observation:
    value = 1 - abs(values["scale"] - 10) / 100
    return Observation(values, "finished", value, 10)


def walk(name: str, space: dict[str, BaseDistribution], count: int, study: str = "s") -> list[Any]:
    """Suggestions one after another, each with a sampler built anew."""
    history: list[Observation] = []
    for index in range(count):
        values = propose(make_sampler(name), space, history, study, index)
        if values is None:
            break
        history.append(observation(values))
    return [item.values for item in history]


def test_grid_follows_declared_order() -> None:
    assert walk("grid", SPACE, 15) == [grid_point(SPACE, index) for index in range(15)]
    assert walk("grid", SPACE, 4) == [
        {"scale": 0.01, "rank": 8},
        {"scale": 0.01, "rank": 16},
        {"scale": 0.01, "rank": 32},
        {"scale": 0.1, "rank": 8},
    ]


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_rebuilt_sampler_does_not_repeat_itself(name: str) -> None:
    points = walk(name, OPEN, 14)
    assert len({tuple(point.values()) for point in points}) == 14
    assert all(contains(OPEN, point) for point in points)
    assert points == walk(name, OPEN, 14)
    assert points != walk(name, OPEN, 14, study="another")


def test_tpe_learns_where_random_does_not() -> None:
    space: dict[str, BaseDistribution] = {"scale": FloatDistribution(0, 100)}
    near = {name: walk(name, space, 40)[20:] for name in ("tpe", "random")}
    error = {name: sum(abs(p["scale"] - 10) for p in points) for name, points in near.items()}
    assert error["tpe"] < error["random"] / 2


def test_tpe_avoids_what_stopped_or_diverged() -> None:
    space: dict[str, BaseDistribution] = {"scale": FloatDistribution(0, 100)}
    history = [Observation({"scale": 5.0 * i}, "diverged") for i in range(8)]
    history += [Observation({"scale": 40 + 2.0 * i}, "stopped", 0.9, 3) for i in range(8)]
    full = {60.0: 0.3, 70.0: 0.4, 88.0: 0.5, 89.0: 0.6, 90.0: 0.5}
    history += [Observation({"scale": x}, "finished", value, 10) for x, value in full.items()]
    history += [Observation({"scale": 1.0}, "failed"), Observation({"scale": 99.0}, "running")]
    found = [propose(make_sampler("tpe"), space, history, index) for index in range(10)]
    assert sum(point is not None and point["scale"] > 80 for point in found) >= 7


@ALL
def test_points_outside_a_narrowed_space_count_for_nothing(name: str) -> None:
    history = [observation({"scale": 3.0, "rank": 8}), observation({"scale": 1.0, "rank": 64})]
    history += [observation({"scale": 1.0})]
    space = {"scale": CategoricalDistribution((1.0, 2.0)), "rank": CategoricalDistribution((8, 16))}
    seen = set()
    for index in range(4):
        values = propose(make_sampler(name), space, history, index)
        assert values is not None
        seen.add(tuple(values.values()))
        history.append(observation(values))
    assert len(seen) == 4
    assert propose(make_sampler(name), space, history, 4) is None


@ALL
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 3), max_size=3), seed=st.integers(0, 10**6))
def test_every_small_space_closes(name: str, sizes: list[int], seed: int) -> None:
    space: dict[str, BaseDistribution] = {
        f"f{i}": IntDistribution(1, size) for i, size in enumerate(sizes)
    }
    history: list[Observation] = []
    while (values := propose(make_sampler(name), space, history, seed, len(history))) is not None:
        assert contains(space, values)
        history.append(Observation(values, "finished", 0.5, 1))
    points = {tuple(item.values.items()) for item in history}
    assert len(points) == len(history) == grid_size(space)


def test_stepped_floats_are_spelt_as_the_grid_spells_them() -> None:
    space: dict[str, BaseDistribution] = {"scale": FloatDistribution(0.1, 0.7, step=0.1)}
    found = sorted(point["scale"] for point in walk("random", space, 7))
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@pytest.mark.parametrize(
    ("name", "space", "trials", "planned"),
    [
        ("grid", SPACE, None, 15),
        ("grid", SPACE, 4, 4),
        ("grid", {}, None, 1),
        ("tpe", SPACE, None, 15),
        ("tpe", SPACE, 40, 15),
        ("tpe", OPEN, None, 30),
        ("tpe", OPEN, 200, 200),
        ("random", {"rank": IntDistribution(1, 1000)}, None, 30),
        ("random", {}, 8, 1),
    ],
)
def test_planned_configurations(
    name: str, space: dict[str, BaseDistribution], trials: int | None, planned: int
) -> None:
    assert planned_configurations(name, space, trials) == planned


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(InvalidInput, match="finitely many values of scale"):
        planned_configurations("grid", OPEN, None)
    with pytest.raises(InvalidInput, match=r"'tp'.*Did you mean 'tpe'.*grid, random, tpe"):
        planned_configurations("tp", SPACE, None)
    with pytest.raises(InvalidInput, match="trials is 0"):
        planned_configurations("tpe", SPACE, 0)
