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
from statistics import fmean, median

import numpy as np

from orchestrator.analysis.noise import SeedNoise, replicates, same_images
from orchestrator.analysis.statistics import Floats, Variance, paired_images, t_interval
from orchestrator.analysis.summary import Optimism
from orchestrator.spec import TrialResult

LEAST = 3
"""Configurations, below which nothing is said about their distribution."""
_NEAR = 0.1
"""Configurations this far below the winner at most tell how its images differ from another's."""
_GRID, _ITERATIONS = 121, 100


def optimism(
    reference: TrialResult,
    ranked: Sequence[TrialResult],
    rows: Sequence[TrialResult],
    noise: SeedNoise,
) -> Optimism | None:
    """Of the winner's search row `reference` among the `ranked` full-length ones of its study.

    `rows` are the study's. None where fewer than three configurations were tried on these images.
    """
    known = [row for row in ranked if row is reference or same_images(reference, row)]
    if len(known) < LEAST:
        return None
    repeated = replicates(reference, rows)
    stays = noise.stays(_single(reference, known))
    own = [[row, *repeated.get(row.trial.config, ())] for row in known]
    values = np.array([fmean(row.value or 0.0 for row in some) for some in own])
    variances = np.array([stays + noise.drawn / len(some) for some in own])
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


def _single(reference: TrialResult, known: Sequence[TrialResult]) -> float:
    """The variance of one training's accuracy over images, but for what all trainings share."""
    least = (reference.value or 0.0) - _NEAR
    others = [row for row in known if row is not reference]
    near = [row for row in others if (row.value or 0.0) >= least] or others
    return median(paired_images(reference.correct, row.correct).value for row in near) / 2


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
