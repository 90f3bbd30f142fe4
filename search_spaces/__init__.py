"""Search spaces: adapter name → {field → `optuna.distributions.*`}. Data, no decisions.

A field is one of the adapter's own or one of the recipe's (lr, weight_decay, batch …); the two sets
are disjoint. `built_in` has the spaces of the built-in adapters. That of an adapter from another
package is found through the entry-point group `orchestrate.search_spaces`: the entry's
name is the adapter's, its object a dict like the ones here. Only Optuna's distributions are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any

import yaml
from optuna.distributions import BaseDistribution

from search_spaces.built_in import SPACES as SPACES
from search_spaces.built_in import ablation, fair
from search_spaces.finite import choices as choices
from search_spaces.finite import contains as contains
from search_spaces.finite import grid_point as grid_point
from search_spaces.finite import grid_size as grid_size
from search_spaces.finite import snap as snap
from search_spaces.form import Space as Space
from search_spaces.form import from_yaml as from_yaml
from search_spaces.form import narrow as narrow
from search_spaces.form import to_yaml as to_yaml
from search_spaces.selections import SELECTIONS as SELECTIONS
from search_spaces.selections import to_choice as to_choice
from search_spaces.selections import to_field as to_field

ENTRY_POINTS = "orchestrate.search_spaces"

_EVERY_TASK = "every_task"

PRESETS: dict[str, Callable[[str, int], Space]] = {
    "ablation": lambda _, depth: ablation(depth),
    "fair": lambda adapter, _: fair(get(adapter) if adapter in names() else {}),
}
"""Name → (adapter, depth of the backbone) → a space instead of the adapter's own."""


def names() -> tuple[str, ...]:
    """The adapters that have a search space, sorted: built-in ones and those of entry points."""
    return tuple(sorted({*SPACES, *entry_points(group=ENTRY_POINTS).names}))


def get(adapter: str) -> Space:
    """A copy of an adapter's space; `ValueError` with the alternatives if it has none."""
    if adapter in SPACES:
        return dict(SPACES[adapter])
    for entry in entry_points(group=ENTRY_POINTS, name=adapter):
        return _checked(f"{entry.name} = {entry.value}", entry.load())
    raise ValueError(f"no search space for adapter '{adapter}'. Available: {', '.join(names())}.")


def published(adapter: str, task: str) -> dict[str, Any] | None:
    """The fields that the authors published as best for a VTAB-1k task, or None.

    They were chosen on the test set: a place to start a search from, never its result.
    """
    fields = _table("published").get(adapter, {}).get(task)
    if fields is None or task == _EVERY_TASK:
        return None
    return {**published_for_all(adapter), **narrow(SPACES.get(adapter, {}), fields)[1]}


def published_for_all(adapter: str) -> dict[str, Any]:
    """The fields on which all of an adapter's published configurations depend."""
    return dict(_table("published").get(adapter, {}).get(_EVERY_TASK, {}))


def published_recipe(adapter: str, task: str) -> dict[str, Any]:
    """The recipe fields of the authors' script for a VTAB-1k task, without those it searches.

    For another task those that hold on every one.
    """
    entry = _table("recipes")[adapter]
    fields = {**entry[_EVERY_TASK], **entry.get(task, {})}
    return {name: value for name, value in fields.items() if not isinstance(value, list)}


def published_search(adapter: str) -> Space:
    """The recipe fields that the authors' script searches."""
    every = _table("recipes").get(adapter, {}).get(_EVERY_TASK, {})
    return from_yaml({name: value for name, value in every.items() if isinstance(value, list)})[0]


def recipe_fields(adapter: str) -> frozenset[str]:
    """The recipe fields that an adapter's published recipe has for some task; none without one."""
    return frozenset().union(*_table("recipes").get(adapter, {}).values())


def with_recipes() -> tuple[str, ...]:
    """The adapters that have a published recipe."""
    return tuple(_table("recipes"))


@cache
def _table(name: str) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Adapter → task or `every_task` → fields, from a file beside this one."""
    text = files("search_spaces").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, Mapping[str, Any]]] = yaml.safe_load(text)
    return table


def _checked(entry: str, space: object) -> Space:
    if isinstance(space, Mapping) and all(
        isinstance(name, str) and isinstance(value, BaseDistribution)
        for name, value in space.items()
    ):
        return dict(space)
    raise ValueError(
        f"entry point '{entry}' of group '{ENTRY_POINTS}' is {space!r}; "
        "allowed: a dict of field name → optuna.distributions.*."
    )
