"""How much better than it is the winner of a search looks on the images that it was chosen on.

The best of many noisy values is high partly by luck, and still so after replication, as the same
images are read again. Empirical Bayes: configurations differ by an unknown distribution, each value
by its own noise; the mean of what the winner's value may stand for is its value without that luck.
The distribution is the nonparametric maximum likelihood estimate (Kiefer & Wolfowitz, Annals of
Mathematical Statistics 27, 1956; Jiang & Zhang, Annals of Statistics 37, 2009), since some
configurations of a grid are far worse than the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from orchestrator.analysis.exclusion import replicated_answers, replicates, same_images
from orchestrator.analysis.statistics import Answers, Floats, Variance, paired_images, t_interval
from orchestrator.analysis.summary import Optimism
from orchestrator.spec import TrialResult

LEAST = 3
"""Configurations, below which nothing is said about their distribution."""
_NEAR = 0.1
"""Configurations this far below the winner at most tell how its images differ from another's."""
_GRID, _ITERATIONS = 121, 100


def optimism(
    reference: TrialResult, ranked: Sequence[TrialResult], rows: Sequence[TrialResult]
) -> Optimism | None:
    """Of the winner's search row `reference` among the `ranked` full-length ones of its study.

    `rows` are the study's. None where fewer than three configurations were tried on these images.
    """
    known = [row for row in ranked if row is reference or same_images(reference, row)]
    if len(known) < LEAST:
        return None
    repeated = replicates(reference, rows)
    noise = _Noise.of(reference, known, replicated_answers(reference, rows))
    own = [[row, *repeated.get(row.trial.config, ())] for row in known]
    values = np.array([fmean(row.value or 0.0 for row in some) for some in own])
    variances = np.array([noise.variance(len(some)) for some in own])
    if not variances.all():
        return None
    index = known.index(reference)
    corrected = float(np.clip(_posterior_mean(values, variances, index), 0, 1))
    again = repeated.get(reference.trial.config)
    return Optimism(
        corrected,
        t_interval(corrected, Variance(((float(variances[index]), math.inf),))),
        (reference.value or 0.0) - corrected,
        fmean(row.value or 0.0 for row in again) - corrected if again else None,
    )


@dataclass(frozen=True)
class _Noise:
    """Variances of one training's accuracy: what stays in all seeds of a configuration on these
    images, and what each seed draws anew.
    """

    stays: float
    drawn: float

    @classmethod
    def of(
        cls,
        reference: TrialResult,
        known: Sequence[TrialResult],
        seen: Sequence[Answers],
    ) -> _Noise:
        least = (reference.value or 0.0) - _NEAR
        others = [row for row in known if row is not reference]
        near = [row for row in others if (row.value or 0.0) >= least] or others
        pairs = (paired_images(reference.correct, row.correct) for row in near)
        single = median(variance.value for variance in pairs) / 2
        if not seen:
            return cls(single, 0.0)
        rest = fmean(answers.mean_square_rest / answers.images for answers in seen)
        seeds = fmean(answers.mean_square_seeds / answers.images for answers in seen)
        return cls(max(single - rest, 0.0), max(seeds, rest))

    def variance(self, seeds: int) -> float:
        """Of the mean over so many seeds."""
        return self.stays + self.drawn / seeds


def _posterior_mean(values: Floats, variances: Floats, index: int) -> float:
    """Of the true value behind `values[index]`: (K,) values with known `variances` (K,)."""
    reach = 2 * float(variances.max()) ** 0.5
    grid = np.linspace(values.min() - reach, values.max() + reach, _GRID)
    distance = (values[:, None] - grid) ** 2 / (2 * variances[:, None])
    # Relative to each value's nearest point: far ones would be 0 otherwise.
    likelihood = np.exp(distance.min(1, keepdims=True) - distance)
    prior = np.full(_GRID, 1 / _GRID)
    for _ in range(_ITERATIONS):
        posterior = likelihood * prior
        prior = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    own = likelihood[index] * prior
    return float(own @ grid / own.sum())
