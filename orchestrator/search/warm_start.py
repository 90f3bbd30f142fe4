"""Warm starts: the configuration that a study tries before its sampler's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.spec import Study
from search_spaces import contains, published, to_choice

WARM_STARTS = ("none", "published")


def warm_start(kind: str, study: Study) -> dict[str, Any] | None:
    """One value per field of the study's space, or None: the sampler begins.

    `published` is what the authors published for this adapter on a VTAB-1k task of that name, every
    other searched field at the study's default. None if there is no such publication, if it lies
    outside the space, or if the study holds one of its fields at another value.
    """
    found = published(study.adapter, study.task) if kind == "published" else None
    if found is None:
        return None
    own: Mapping[str, Any] = {**asdict(study.recipe), **study.params}
    if any(own.get(name) != found[name] for name in found if name not in study.space):
        return None
    values = {name: found.get(name, to_choice(name, own.get(name))) for name in study.space}
    return values if contains(study.space, values) else None
