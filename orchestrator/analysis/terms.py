"""Whether a sweep's adapters are compared on equal terms, in sentences for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, prod
from typing import Any

from orchestrator.spec import RECIPE_FIELDS, Sweep

_FLOAT8 = (
    "Search trials multiplied the frozen layers in float8 (--precision fp8), so accuracies of the "
    "search are of that precision; those of replicates and final trials, and what is exported, are "
    "of bf16."
)


def terms(sweep: Sweep) -> list[str]:
    """Which recipe the numbers were made with, and what the adapters did not have in common.

    A field of the recipe is nobody's own: where some adapters search it and others hold it, or
    where one tries more configurations than another, a better number may come from that.
    """
    if sweep.published_recipes:
        first = (
            "Every adapter was trained with the recipe of its authors' script (--recipe published):"
            " a difference between two adapters is one between their recipes as well, and none of "
            "these numbers stands beside one of a shared recipe."
        )
    else:
        first = "All adapters were trained with one recipe."
    precisions = [_FLOAT8] if sweep.recipe.precision == "fp8" else []
    if len(sweep.adapters) == 1:
        return [first, *precisions]
    searched = _differing(sweep, lambda name: _of_recipe(sweep.spaces.get(name, {})))
    held = _differing(sweep, lambda name: _of_recipe(sweep.fixed.get(name, {})))
    budget = _differing(sweep, lambda name: _configurations(sweep, name))
    return [
        first,
        *precisions,
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
    """All of a finite space, or the sweep's number of trials if that is smaller."""
    sizes = [_values(form) for form in sweep.spaces.get(name, {}).values()]
    least = min((n for n in (prod(sizes), float(sweep.trials or inf)) if n < inf), default=0)
    return f"{least:.0f}"


def _values(form: Any) -> float:
    """How many values a field has in the YAML form of its space; infinite for a range of floats.

    `search_spaces` could say so too, but loads Optuna, which no reader of results needs.
    """
    if isinstance(form, list | tuple):
        return len(form)
    low, high, step = form["low"], form["high"], form.get("step")
    if step is None and isinstance(low, int) and isinstance(high, int):
        step = 1
    return inf if step is None else (high - low) // step + 1
