"""Search space of `efft2`: the grid of the EFFT paper, 5 · 3 · 4 = 60 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

SPACE: dict[str, BaseDistribution] = {
    # EFFT's grid. The published winners (published.yaml) also use 0.05, 0.5, 5, 30, 50 and 80.
    "scale": CategoricalDistribution((0.01, 0.1, 1.0, 10.0, 100.0)),
    # EFFT's grid.
    "rank": CategoricalDistribution((8, 16, 32)),
    # EFFT's grid: the factor that starts at zero, MHSA group then FFN group.
    "init": CategoricalDistribution(("vv", "vu", "uv", "uu")),
}
