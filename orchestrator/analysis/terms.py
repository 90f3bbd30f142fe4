"""Whether a sweep's adapters are compared on equal terms, in sentences for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import search_spaces
from orchestrator.spec import RECIPE_FIELDS, Sweep


def terms(sweep: Sweep) -> list[str]:
    """Which recipe the numbers were made with, and what the adapters did not have in common.

    A field of the recipe is nobody's own: where some adapters search it and others hold it, or
    where one tries more configurations than another, a better number may come from that.
    """
    if sweep.recipes == "published":
        first = (
            "Every adapter was trained with the recipe of its authors' script (--recipe published):"
            " a difference between two adapters is one between their recipes as well, and none of "
            "these numbers stands beside one of a shared recipe."
        )
    else:
        first = "All adapters were trained with one recipe."
    if len(sweep.adapters) == 1:
        return [first]
    searched = _differing(sweep, lambda name: _of_recipe(sweep.spaces.get(name, {})))
    held = _differing(sweep, lambda name: _of_recipe(sweep.fixed.get(name, {})))
    budget = _differing(sweep, lambda name: _configurations(sweep, name))
    return [
        first,
        *([f"Not on equal terms: of the recipe, {searched}."] if searched else []),
        *([f"Not on equal terms: held at another value than the others', {held}."] if held else []),
        *([f"Not on equal terms: configurations tried per task, {budget}."] if budget else []),
    ]


def _differing(sweep: Sweep, what: Callable[[str], str]) -> str:
    """`… (a, b); … (c)`: what adapters have, the same ones together; empty if all have the same."""
    groups: dict[str, list[str]] = {}
    for name in sweep.adapters:
        groups.setdefault(what(name), []).append(name)
    if len(groups) == 1:
        return ""
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in groups.items())


def _of_recipe(fields: Mapping[str, Any]) -> str:
    own = [f"{name} {value}" for name, value in sorted(fields.items()) if name in RECIPE_FIELDS]
    return ", ".join(own) or "nothing"


def _configurations(sweep: Sweep, name: str) -> str:
    size = search_spaces.grid_size(search_spaces.from_yaml(sweep.spaces.get(name, {}))[0])
    return str(min(number for number in (sweep.trials, size) if number is not None))
