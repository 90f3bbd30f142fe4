"""Search space of `fact_tk`, 5 · 2 = 10 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import SCALES

SPACE: dict[str, BaseDistribution] = {
    # The scales of FacT's published winners (published.yaml) are these five.
    "scale": CategoricalDistribution(SCALES),
    # The ranks of FacT-TK's published winners.
    "rank": CategoricalDistribution((16, 32)),
}
