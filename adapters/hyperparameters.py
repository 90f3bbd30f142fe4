"""Hyper-parameter fields with their ranges, checked and normalised when an adapter is made.

Also the guard that keeps one trial's values out of a forward pass over several.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import Field, field, fields
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from adapters.errors import AdapterError

LARGEST = 16_384
"""Of whole numbers, such as ranks: no backbone is as wide, and memory ends before it."""


def hyperparameter(
    default: Any,
    *,
    low: float | None = None,
    below: float | None = None,
    among: Sequence[Any] | None = None,
    stacks: bool = False,
) -> Any:
    """A dataclass field with a range: `low` ≤ value (each of a tuple) < `below`, or one of `among`.

    `stacks=True` says that trials with different values of it can share one stack.
    """
    return field(
        default=default, metadata={"low": low, "below": below, "among": among, "stacks": stacks}
    )


def check_fields(adapter: Any) -> None:
    """Checks every field's type and range; ints become floats and lists tuples where declared."""
    owner, kinds = type(adapter).__name__, get_type_hints(type(adapter))
    for item in fields(adapter):
        value, kind = getattr(adapter, item.name), kinds[item.name]
        try:
            value = _coerced(kind, value)
        except TypeError:
            shown = kind.__name__ if isinstance(kind, type) else kind
            raise AdapterError(
                f"{owner}.{item.name} must be of type {shown} (finite), not {value!r}."
            ) from None
        object.__setattr__(adapter, item.name, value)
        if value is not None:
            _check(item, value, owner)


def _coerced(kind: Any, value: Any) -> Any:
    """`value` as the declared type; TypeError if it is of another."""
    if get_origin(kind) in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        is_list = isinstance(value, list | tuple)
        options = [option for option in get_args(kind) if option is not NoneType]
        kind = next((k for k in options if (get_origin(k) is tuple) == is_list), options[0])
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_coerced(get_args(kind)[0], element) for element in value)
    if kind is float and type(value) in (int, float):
        with suppress(OverflowError):  # an int of 400 digits is no float
            if isfinite(value):
                return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise TypeError


def _check(item: Field[Any], value: Any, owner: str) -> None:
    low, below, among = (item.metadata.get(name) for name in ("low", "below", "among"))
    numbers = value if isinstance(value, tuple) else (value,)
    if any(type(number) is int and abs(number) > LARGEST for number in numbers):
        raise AdapterError(
            f"{owner}.{item.name} is {value!r:.80}; allowed: whole numbers up to {LARGEST:,}."
        )
    if among is not None and value not in among:
        shown = ", ".join(map(repr, among))
        raise AdapterError(f"{owner}.{item.name} is {value!r}; allowed: {shown}.")
    if any(
        (low is not None and not number >= low) or (below is not None and not number < below)
        for number in numbers
    ):
        limits = (("at least", low), ("below", below))
        shown = " and ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
        raise AdapterError(f"{owner}.{item.name} is {value!r}; allowed: {shown}.")


def per_trial_fields(cls: type) -> tuple[str, ...]:
    """The fields that may differ between the trials of a stack (`stacks=True`)."""
    return tuple(item.name for item in fields(cls) if item.metadata.get("stacks"))


A = TypeVar("A")


def without_per_trial_fields(adapter: A) -> A:
    """A copy for use in a forward pass: reading a per-trial field of it raises `AdapterError`.

    One member speaks for all trials of a stack there, so its own value would silently become every
    trial's. Structural fields, which are equal for all, stay readable.
    """
    own: Any = type(adapter)
    blind: A = object.__new__(_blind_class(own))
    blind.__dict__.update(adapter.__dict__)
    return blind


@cache
def _blind_class(cls: Any) -> type[Any]:
    guards = {name: _guard(cls.__name__, name) for name in per_trial_fields(cls)}
    return type(cls.__name__, (cls,), {**guards, "__doc__": cls.__doc__})


def _guard(owner: str, name: str) -> property:
    def refuse(_: object) -> NoReturn:
        raise AdapterError(
            f"{owner} reads self.{name} in a forward pass, where one trial speaks for all of its "
            f"stack and {name} may differ between them. Take it from the context: "
            f"context.vector('{name}') has every trial's value, drop_activation and drop_factor "
            "every trial's dropout, and the tensors have every trial's (zero-padded) sizes."
        )

    return property(refuse)
