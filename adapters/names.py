"""Adapters by name: the built-in families and those that other packages provide as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import adapters.built_in as built_in_adapters
from adapters.base import Adapter
from adapters.errors import AdapterError

GROUP = "orchestrate.adapters"


@cache
def built_in() -> dict[str, type[Adapter]]:
    """Name → class of every adapter of `adapters.built_in`."""
    found = [cls for cls in vars(built_in_adapters).values() if isinstance(cls, type)]
    return {cls.name: cls for cls in found if issubclass(cls, Adapter)}


@cache
def table() -> dict[str, type[Adapter]]:
    """Name → adapter class; an entry point may add a name but not take a built-in one."""
    found = dict(built_in())
    for entry in entry_points(group=GROUP):
        if entry.name in found:
            raise AdapterError(
                f"entry point '{entry.value}' takes the name '{entry.name}', which exists already."
            )
        found[entry.name] = _load(entry)
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
    known = [item.name for item in fields(cls)]
    for key in values:
        if key not in known:
            raise AdapterError(
                f"adapter '{name}' has no field '{key}'; its fields: {', '.join(known) or 'none'}."
            )
    return cls(**values)


def _load(entry: EntryPoint) -> type[Adapter]:
    shown = f"entry point '{entry.name} = {entry.value}'"
    try:
        cls = entry.load()
    except Exception as error:  # whatever another package's import may raise
        raise AdapterError(f"{shown} cannot be loaded: {error!r}; fix or uninstall it.") from error
    if not (isinstance(cls, type) and issubclass(cls, Adapter)):
        raise AdapterError(f"{shown} is not a subclass of adapters.Adapter.")
    if getattr(cls, "name", None) != entry.name:
        raise AdapterError(f"{shown}: the class must set name = '{entry.name}'.")
    return cls
