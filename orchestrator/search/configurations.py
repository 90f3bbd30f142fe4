"""From the values of a suggestion to the trials of its configuration, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from orchestrator.spec import RECIPE_FIELDS, Stage, Study, Trial
from search_spaces import to_choice, to_field

SEARCH_SEED = 0
"""Seed of every search trial; replicate and final use 1, 2, …"""


def search_trial(study: Study, values: Mapping[str, Any]) -> Trial:
    """The search-stage trial of one configuration: the study's values with `values` over them."""
    recipe = {name: value for name, value in values.items() if name in RECIPE_FIELDS}
    params = {
        name: _as_type_of(study.params.get(name), to_field(name, value))
        for name, value in values.items()
        if name not in RECIPE_FIELDS
    }
    return Trial(
        suite=study.suite,
        task=study.task,
        backbone=study.backbone,
        adapter=study.adapter,
        params={**study.params, **params},
        recipe=study.recipe.with_values(recipe),
        seed=SEARCH_SEED,
        stage="search",
        data=_data(study, "search", SEARCH_SEED),
        weights=study.weights,
        protocol=study.protocol,
    )


def fields_of(trial: Trial) -> dict[str, Any]:
    """The values of all fields of a trial, of its recipe and of its adapter."""
    return {**asdict(trial.recipe), **trial.params}


def searched_values(study: Study, trial: Trial) -> dict[str, Any]:
    """A trial's values of the fields of the study's space; fields that it lacks are left out."""
    known = fields_of(trial)
    return {name: to_choice(name, known[name]) for name in study.space if name in known}


def repeat(study: Study, trial: Trial, stage: Stage, seed: int) -> Trial:
    """The same configuration in another stage, with another seed."""
    return replace(trial, stage=stage, seed=seed, data=_data(study, stage, seed))


def _data(study: Study, stage: Stage, seed: int) -> str:
    return study.data.read_by(stage, seed, study.splits, study.protocol != "honest")


def _as_type_of(default: Any, value: Any) -> Any:
    """An integer as a float if the default is one: 1 and 1.0 are the same configuration."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and isinstance(default, float) else value
