"""Priors: what is known of an adapter's configurations before a study has tried any.

`published`: the authors' configuration for the task is tried first. `sweep`: the other studies of
this sweep, and FOLDER: the searches of an earlier sweep, or the winners of a registry, say which
configurations the first trials of a study are, those with the highest mean score. The score of a
configuration in a search is the normal quantile of the rank of its val accuracy there, and 0, the
middle, where it was not tried. Test accuracies are never looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from orchestrator.search.configurations import fields_of
from orchestrator.spec import Study, TrialResult, canonical
from search_spaces import contains, published, to_choice

KINDS = ("none", "published", "sweep")
"""What a prior may be beside a folder."""
FIRST = 5
"""Trials of a study that other searches choose."""
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Searched:
    """One search: the fields of its configurations (of adapter and recipe), each with a number that
    is higher for the better one.
    """

    name: str
    trials: tuple[tuple[Values, float], ...]

    @classmethod
    def of(cls, name: str, rows: Iterable[TrialResult]) -> Searched:
        """From the search trials among `rows`: what was stopped is below all that was not."""
        own = [row for row in rows if row.trial.stage == "search" and not row.trial.leaks]
        below = {"finished": 0.0, "stopped": -1.0, "diverged": -2.0}
        return cls(
            name,
            tuple((fields_of(row.trial), (row.value or 0.0) + below[row.status]) for row in own),
        )


def most_promising(
    study: Study, searches: Sequence[Searched], taken: Iterable[Values]
) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """The untried point of the study's space with the highest mean score over the searches that
    have points of it, and their names; None if none is better than the middle.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    points: dict[str, dict[str, Any]] = {}
    used = []
    for search in searches:
        own = {canonical(values): (values, score) for values, score in _scored(study, search)}
        if own:
            used.append(search.name)
        for name, (values, score) in own.items():
            points[name] = values
            totals[name] += score
    known = {canonical(dict(values)) for values in taken}
    left = [name for name in points if name not in known and totals[name] > 0]
    if not left:
        return None
    return points[min(left, key=lambda name: (-totals[name], name))], tuple(used)


def published_point(study: Study) -> dict[str, Any] | None:
    """The authors' configuration for this adapter on the VTAB-1k task of that name, with the other
    searched fields at the study's defaults: one value per field of the study's space.

    None if nothing is published, if it is outside the space, or if the study fixes one of its
    fields at another value.
    """
    found = published(study.adapter, study.task)
    if found is None:
        return None
    own: Values = {**asdict(study.recipe), **study.params}
    if any(own.get(name) != found[name] for name in found if name not in study.space):
        return None
    values = {name: found.get(name, to_choice(name, own.get(name))) for name in study.space}
    return values if contains(study.space, values) else None


def _scored(study: Study, search: Searched) -> list[tuple[dict[str, Any], float]]:
    """The search's points that are of the study's space, with their scores; that of a single one,
    such as a registry's winner, is 1.
    """
    found: dict[str, tuple[dict[str, Any], float]] = {}
    for fields, number in search.trials:
        values = {n: to_choice(n, fields[n]) for n in study.space if n in fields}
        if contains(study.space, values):
            found[canonical(values)] = values, number
    numbers = sorted(number for _, number in found.values())
    if len(numbers) == 1:
        return [(values, 1.0) for values, _ in found.values()]
    return [(values, _quantile(numbers, number)) for values, number in found.values()]


def _quantile(numbers: Sequence[float], number: float) -> float:
    """Of the normal distribution, at the mean rank of a number among all (ascending) of them."""
    below = sum(one < number for one in numbers)
    equal = sum(one == number for one in numbers)
    return NormalDist().inv_cdf((below + equal / 2) / len(numbers))
