"""The YAML form of a space, and narrowing one space by another.

rank: [4, 8]                                  categorical: the choices
scale: {low: 0.01, high: 100, log: true}      a range; integers if low, high and step are
dropout: {low: 0.0, high: 0.3, step: 0.1}
init: vv                                      fixed: leaves the space
layers: [0-2, 9-11]                           selections as text, see `search_spaces.selections`
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search_spaces.selections import to_choice

Space = dict[str, BaseDistribution]
_MOST_VALUES = 100_000
"""Of a stepped range of floats: they are listed where a sampler counts or exhausts them."""
_RANGE_KEYS = ("low", "high", "log", "step")
_FORMS = "a list of choices, one value, or a mapping {low, high, log?, step?}"


def from_yaml(mapping: Mapping[str, Any]) -> tuple[Space, dict[str, Any]]:
    """The space and the fixed values that a YAML mapping describes; `ValueError` if unreadable."""
    return narrow({}, mapping)


def narrow(base: Mapping[str, BaseDistribution], changes: Any) -> tuple[Space, dict[str, Any]]:
    """`base` with the fields of the YAML mapping `changes` replaced, and the values these fix.

    Fields keep their place and new ones come last; whole numbers become floats where `base` has
    floats, so that 1 and 1.0 are one configuration.
    """
    if not isinstance(changes, Mapping) or not all(isinstance(name, str) for name in changes):
        raise ValueError(f"a search space is {changes!r}; allowed: a mapping of fields.")
    space, fixed = dict(base), dict[str, Any]()
    for name, form in changes.items():
        floats = _has_floats(base.get(name))
        if isinstance(form, Mapping):
            space[name] = _range(name, form, floats)
        elif isinstance(form, list | tuple):
            space[name] = _categorical(name, form, floats)
        else:
            fixed[name] = _value(name, form, floats)
            space.pop(name, None)
    return space, fixed


def to_yaml(space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """The form that `from_yaml` reads back as the same space; plain JSON and YAML values."""
    return {name: _form(distribution) for name, distribution in space.items()}


def _form(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    form: dict[str, Any] = {"low": distribution.low, "high": distribution.high}
    if distribution.log:
        form["log"] = True
    elif distribution.step is not None:
        form["step"] = distribution.step
    return form


def _has_floats(distribution: BaseDistribution | None) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return all(isinstance(choice, float) for choice in distribution.choices)
    return isinstance(distribution, FloatDistribution)


def _value(name: str, value: Any, floats: bool) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"field '{name}' is {value}; allowed: finite numbers.")
    if not isinstance(value, str | bool | int | float | None):
        raise ValueError(f"field '{name}' is {value!r}; allowed: {_FORMS} of plain values.")
    if floats and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return to_choice(name, value)


def _categorical(name: str, form: list[Any] | tuple[Any, ...], floats: bool) -> BaseDistribution:
    values = [_value(name, value, floats) for value in form]
    if not values:
        raise ValueError(f"field '{name}' has no choices; allowed: {_FORMS}.")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"field '{name}' lists {value!r} twice; allowed: distinct choices.")
    return CategoricalDistribution(values)


def _range(name: str, form: Mapping[str, Any], floats: bool) -> BaseDistribution:
    if not {"low", "high"} <= set(form) <= set(_RANGE_KEYS):
        raise ValueError(f"field '{name}' is {dict(form)!r}; allowed: {_FORMS}.")
    low, high, step = (_bound(name, key, form.get(key), floats) for key in ("low", "high", "step"))
    log = form.get("log", False)
    if low is None or high is None or not isinstance(log, bool):
        raise ValueError(f"field '{name}' is {dict(form)!r}; allowed: numbers, and log a boolean.")
    distribution: IntDistribution | FloatDistribution
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's warning about the step is the error below.
            if isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
                distribution = IntDistribution(low, high, log=log, step=1 if step is None else step)
            else:
                distribution = FloatDistribution(low, high, log=log, step=step)
    except (ValueError, ArithmeticError) as error:  # a step too small for Optuna's arithmetic
        raise ValueError(f"field '{name}' is {dict(form)!r}: {error}") from None
    step = distribution.step if isinstance(distribution, FloatDistribution) else None
    if step and (distribution.high - distribution.low) / step >= _MOST_VALUES:
        raise ValueError(
            f"field '{name}' is {dict(form)!r}; allowed: at most {_MOST_VALUES:,} steps."
        )
    if distribution.high != high:
        raise ValueError(
            f"field '{name}' is {dict(form)!r}; allowed: high - low a whole number of steps."
        )
    return distribution


def _bound(name: str, key: str, value: Any, floats: bool) -> int | float | None:
    number: int | float | None = _value(f"{name}.{key}", value, floats)
    if isinstance(number, str | bool):
        raise ValueError(f"field '{name}' has {key} {value!r}; allowed: a number.")
    return number
