"""Adapters by name: the built-in families and those that other packages provide as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from adapters.base import Adapter
from adapters.efft2 import EFFT2
from adapters.errors import AdapterError
from adapters.hta import HTA
from adapters.linear import LinearProbe
from adapters.lora import LoRA

GROUP = "orchestrate.adapters"
_BUILT_IN: tuple[type[Adapter], ...] = (LinearProbe, LoRA, EFFT2, HTA)


@cache
def table() -> dict[str, type[Adapter]]:
    """Name → adapter class; an entry point may add a name but not take a built-in one."""
    found: dict[str, type[Adapter]] = {cls.name: cls for cls in _BUILT_IN}
    for entry in entry_points(group=GROUP):
        if entry.name in found:
            raise AdapterError(
                f"entry point '{entry.value}' takes the name '{entry.name}', which exists already."
            )
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, Adapter) and cls.name == entry.name):
            raise AdapterError(
                f"entry point '{entry.name} = {entry.value}' is not an Adapter subclass with name = '{entry.name}'."
            )
        found[entry.name] = cls
    return found


def names() -> list[str]:
    """Every adapter's name, sorted."""
    return sorted(table())


def get(name: str) -> type[Adapter]:
    """The adapter class of that name; `AdapterError` with the alternatives otherwise."""
    if name not in table():
        raise AdapterError(f"unknown adapter '{name}'; available: {', '.join(names())}.")
    return table()[name]


def build(name: str, values: Mapping[str, Any]) -> Adapter:
    """The adapter of that name with these hyper-parameters; `AdapterError` for an unknown field."""
    cls = get(name)
    fields = cls.__dataclass_fields__
    for key in values:
        if key not in fields:
            raise AdapterError(
                f"adapter '{name}' has no field '{key}'; its fields: {', '.join(fields) or 'none'}."
            )
    return cls(**values)
