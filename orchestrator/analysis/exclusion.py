"""Which configurations of a search the evidence excludes from being as good as the winner.

Over seeds and images: images are paired, since every search trial has the same seed and val images;
what another seed changes is known from the replicates. The margin is Student's, after Bonferroni
over all pairs of configurations: it holds for the largest of their differences too, as the winner
was chosen for being ahead. Tukey's range would be 2 to 10 % narrower, and takes minutes for a large
sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.analysis.noise import SeedNoise, same_images
from orchestrator.analysis.statistics import paired_images, t_quantile
from orchestrator.analysis.summary import ALPHA
from orchestrator.spec import TrialResult

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


def compared(reference: TrialResult, ranked: Rows, noise: SeedNoise) -> list[Compared]:
    """Each other of the `ranked` search rows beside the winner's own, `reference`.

    Only rows of the same seed and images are compared. Where nothing was replicated, other seeds
    are left out of account.
    """
    others = [row for row in ranked if row is not reference and same_images(reference, row)]
    seeds = noise.spread.scaled(2)  # one training on each side
    pairs = len(others) * (len(others) + 1) // 2
    found = []
    for row in others:
        variance = paired_images(reference.correct, row.correct) + seeds
        error, quantile = variance.value**0.5, t_quantile(variance.freedom, 1 - ALPHA / pairs)
        difference = (reference.value or 0.0) - (row.value or 0.0)
        detectable = (quantile + _FOUR_OF_FIVE) * error
        found.append(Compared(row, difference, quantile * error, detectable))
    return found
