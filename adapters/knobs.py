"""Hyper-parameter fields with their ranges, checked and normalised when an adapter is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, field, fields
from typing import Any

from adapters.errors import AdapterError


def knob(
    default: Any,
    *,
    low: float | None = None,
    below: float | None = None,
    among: Sequence[Any] | None = None,
    stacks: bool = False,
) -> Any:
    """A dataclass field with a range: `low` ≤ value < `below`, or one of `among`.

    `stacks=True` says that trials with different values of it can share one stack.
    """
    return field(
        default=default, metadata={"low": low, "below": below, "among": among, "stacks": stacks}
    )


def check_fields(adapter: Any) -> None:
    """Coerces ints to floats and lists to tuples where the field says so, and checks every range."""
    for item in fields(adapter):
        value = _coerced(item, getattr(adapter, item.name), type(adapter).__name__)
        object.__setattr__(adapter, item.name, value)
        if value is not None:
            _check(item, value, type(adapter).__name__)


def _coerced(item: Field[Any], value: Any, owner: str) -> Any:
    kind = str(item.type)
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple") and isinstance(value, list | tuple):
        return tuple(value)
    if kind.startswith("float") and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    wanted = {"int": int, "str": str, "bool": bool}.get(kind.split(" ")[0])
    if wanted is not None and type(value) is wanted:
        return value
    raise AdapterError(f"{owner}.{item.name} must be of type {kind}, not {value!r}.")


def _check(item: Field[Any], value: Any, owner: str) -> None:
    low, below, among = (item.metadata.get(name) for name in ("low", "below", "among"))
    if among is not None and value not in among:
        raise AdapterError(
            f"{owner}.{item.name} is {value!r}; allowed: {', '.join(map(repr, among))}."
        )
    too_low = low is not None and not value >= low
    too_high = below is not None and not value < below
    if too_low or too_high:
        parts = [
            f"at least {low}" if low is not None else "",
            f"below {below}" if below is not None else "",
        ]
        raise AdapterError(
            f"{owner}.{item.name} is {value!r}; allowed: {' and '.join(p for p in parts if p)}."
        )
