"""Which configurations of a search the evidence excludes from being as good as the winner.

Over seeds and images: images are paired, since every search trial has the same seed and val images;
what another seed changes is known from the replicates. The margin is that of Tukey's range for all
configurations together, so it holds for the largest of their differences too: the winner was chosen
for being ahead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.analysis.statistics import (
    Answers,
    Variance,
    paired_images,
    range_quantile,
    seed_variance,
)
from orchestrator.spec import TrialResult

_MANY = 200
"""Degrees of freedom from which on Student's distribution is taken as normal."""
_FOUR_OF_FIVE = 0.8416
"""The normal distribution's quantile of 0.8."""

Rows = Sequence[TrialResult]


@dataclass(frozen=True)
class Compared:
    """A configuration's search row beside the winner's.

    `difference` of accuracy, winner minus this one; the configuration is excluded if it exceeds
    `margin`. A true difference of `detectable` is found in four of five cases.
    """

    row: TrialResult
    difference: float
    margin: float
    detectable: float

    @property
    def excluded(self) -> bool:
        """Whether it is worse than the winner, at 5 % for all configurations together."""
        return self.difference > self.margin


def compared(reference: TrialResult, ranked: Rows, rows: Rows) -> list[Compared]:
    """Each other of the `ranked` search rows beside the winner's own, `reference`.

    Only rows of the same seed and images are compared. `rows` are the study's; where nothing was
    replicated, other seeds are left out of account.
    """
    others = [row for row in ranked if row is not reference and _same_images(reference, row)]
    seeds = _of_a_seed(reference, rows).scaled(2)  # one training on each side
    found = []
    for row in others:
        variance = paired_images(reference.correct, row.correct) + seeds
        freedom = None if variance.freedom >= _MANY else int(variance.freedom)
        error, quantile = variance.value**0.5, range_quantile(len(others) + 1, freedom)
        difference = (reference.value or 0.0) - (row.value or 0.0)
        detectable = (quantile + _FOUR_OF_FIVE) * error
        found.append(Compared(row, difference, quantile * error, detectable))
    return found


def _of_a_seed(reference: TrialResult, rows: Rows) -> Variance:
    by_config = defaultdict(list)
    for row in rows:
        if row.trial.stage == "replicate" and len(row.correct) == len(reference.correct):
            by_config[row.trial.config].append(row.correct)
    several = map(Answers.of, by_config.values())
    return seed_variance([answers for answers in several if answers is not None])


def _same_images(first: TrialResult, second: TrialResult) -> bool:
    same = (first.trial.seed, first.trial.data) == (second.trial.seed, second.trial.data)
    return same and len(first.correct) == len(second.correct) > 1
