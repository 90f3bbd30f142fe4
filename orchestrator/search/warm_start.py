"""Warm starts: a configuration that a study tries before the sampler's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.spec import Study
from search_spaces import contains, published, to_choice

WARM_STARTS = ("none", "published")


def warm_start(kind: str, study: Study) -> dict[str, Any] | None:
    """One value per field of the study's space; None if there is no warm start.

    `published` is the authors' configuration for this adapter on the VTAB-1k task of that name,
    with the other searched fields at the study's defaults. None if nothing is published, if it is
    outside the space, or if the study fixes one of its fields at another value.
    """
    found = published(study.adapter, study.task) if kind == "published" else None
    if found is None:
        return None
    own: Mapping[str, Any] = {**asdict(study.recipe), **study.params}
    if any(own.get(name) != found[name] for name in found if name not in study.space):
        return None
    values = {name: found.get(name, to_choice(name, own.get(name))) for name in study.space}
    return values if contains(study.space, values) else None
