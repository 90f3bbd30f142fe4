from __future__ import annotations

import itertools

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search_spaces import choices, contains, grid_point, grid_size, snap


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (CategoricalDistribution(("b", "a", None)), ["b", "a", None]),
        (IntDistribution(1, 7, step=3), [1, 4, 7]),
        (IntDistribution(1, 3, log=True), [1, 2, 3]),
        (FloatDistribution(0.1, 0.7, step=0.1), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (FloatDistribution(0.5, 0.5), [0.5]),
        (FloatDistribution(0.1, 0.7), None),
        (FloatDistribution(0.1, 0.7, log=True), None),
    ],
)
def test_choices(distribution: BaseDistribution, expected: list[object] | None) -> None:
    values = choices(distribution)
    assert expected == (None if values is None else list(values))


def test_points_are_nested_loops_in_declared_order() -> None:
    space: dict[str, BaseDistribution] = {
        "z": CategoricalDistribution(("p", "q")),
        "a": IntDistribution(1, 3),
        "m": CategoricalDistribution((True, False)),
    }
    points = [tuple(grid_point(space, index).values()) for index in range(12)]
    assert points == list(itertools.product("pq", (1, 2, 3), (True, False)))
    assert list(grid_point(space, 0)) == ["z", "a", "m"]


def test_sizes() -> None:
    assert grid_size({}) == 1
    assert grid_point({}, 0) == {}
    assert grid_size({"a": IntDistribution(1, 10**9), "b": IntDistribution(1, 10**9)}) == 10**18
    assert grid_size({"a": IntDistribution(1, 3), "b": FloatDistribution(0, 1)}) is None


@pytest.mark.parametrize("index", [-1, 3])
def test_points_that_are_not_there(index: int) -> None:
    with pytest.raises(ValueError, match=f"no grid point {index}; allowed: 0 to 2"):
        grid_point({"a": IntDistribution(1, 3)}, index)
    with pytest.raises(ValueError, match="not finite"):
        grid_point({"a": FloatDistribution(1, 3)}, 0)


def test_contains() -> None:
    space: dict[str, BaseDistribution] = {
        "a": FloatDistribution(0, 1),
        "b": FloatDistribution(0, 1, step=0.5),
        "c": CategoricalDistribution(("u", "v")),
    }
    inside = {"a": 0.3, "b": 0.5, "c": "v", "other": 3}
    assert contains(space, inside)
    for change in ({"a": 1.1}, {"a": "u"}, {"b": 0.3}, {"c": "w"}):
        assert not contains(space, inside | change)
    assert not contains(space, {"a": 0.3, "b": 0.5})


def test_snap_spells_values_as_choices_does() -> None:
    stepped = FloatDistribution(0.1, 0.7, step=0.1)
    assert snap(stepped, 0.1 + 2 * 0.1) == 0.3 != 0.1 + 2 * 0.1
    assert snap(FloatDistribution(0, 1), 0.123) == 0.123
    assert snap(CategoricalDistribution(("u",)), "u") == "u"
