"""Search space of `fact_tt`, 5 · 3 = 15 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import SCALES

SPACE: dict[str, BaseDistribution] = {
    # The scales of FacT's published winners (published.yaml) are these five.
    "scale": CategoricalDistribution(SCALES),
    # The ranks of FacT-TT's published winners.
    "rank": CategoricalDistribution((4, 8, 16)),
}
