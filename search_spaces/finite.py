"""Finite spaces as numbered points: the last field varies fastest, as in nested loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import prod
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


def choices(distribution: BaseDistribution) -> Sequence[Any] | None:
    """Every value of one field in order, or None where there is a continuum."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    return _stepped(distribution) if isinstance(distribution, FloatDistribution) else None


def grid_size(space: Mapping[str, BaseDistribution]) -> int | None:
    """The number of points of a space (1 if it is empty), or None if it is not finite."""
    sizes = []
    for distribution in space.values():
        values = choices(distribution)
        if values is None:
            return None
        sizes.append(len(values))
    return prod(sizes)


def grid_point(space: Mapping[str, BaseDistribution], index: int) -> dict[str, Any]:
    """Point `index` (0 … `grid_size` - 1) in declared order; `ValueError` if there is none."""
    size = grid_size(space)
    if size is None or not 0 <= index < size:
        allowed = "none, the space is not finite" if size is None else f"0 to {size - 1}"
        raise ValueError(f"no grid point {index}; allowed: {allowed}.")
    point: dict[str, Any] = {}
    for name, distribution in reversed(list(space.items())):
        values = choices(distribution)
        assert values is not None
        index, digit = divmod(index, len(values))
        point[name] = values[digit]
    return {name: point[name] for name in space}


def contains(space: Mapping[str, BaseDistribution], values: Mapping[str, Any]) -> bool:
    """True if `values` has a possible value for every field of the space."""
    return all(name in values and _has(space[name], values[name]) for name in space)


def snap(distribution: BaseDistribution, value: Any) -> Any:
    """`value` as `choices` spells it: 0.1 + 0.2 and 0.3 are one point of a stepped range."""
    if not isinstance(distribution, FloatDistribution) or distribution.step is None:
        return value
    values = _stepped(distribution)
    assert values is not None
    return values[round((value - distribution.low) / distribution.step)]


def _has(distribution: BaseDistribution, value: Any) -> bool:
    values = choices(distribution)
    if values is not None:
        return value in values
    assert isinstance(distribution, FloatDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _stepped(distribution: FloatDistribution) -> Sequence[float] | None:
    if distribution.single():
        return (distribution.low,)
    if distribution.step is None:
        return None
    # Decimal: 0.1 + 2 · 0.1 must read 0.3, since values become part of a trial's identity.
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    count = int((Decimal(str(distribution.high)) - low) / step) + 1
    return tuple(float(low + step * index) for index in range(count))
