"""Search space of `efft1`: the grid of the EFFT paper and its fine points, 12 · 3 · 2 = 72."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import FINE_SCALES

SPACE: dict[str, BaseDistribution] = {
    # EFFT's coarse grid with the winners' points; TPE starts anywhere, a grid has all of them.
    "scale": CategoricalDistribution(FINE_SCALES),
    # EFFT's grid; rank2 follows.
    "rank": CategoricalDistribution((8, 16, 32)),
    # EFFT's grid: the factor that starts at zero.
    "init": CategoricalDistribution(("v", "u")),
}
