"""Search space of `adaptformer`, 4 · 3 = 12 points (arXiv 2205.13535)."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

SPACE: dict[str, BaseDistribution] = {
    # AdaptFormer-1, -4 and -64 are the paper's; 8 is that of the VTAB-1k comparisons.
    "hidden": CategoricalDistribution((1, 4, 8, 64)),
    # The paper settles on 0.1; ten times less and more are our choice.
    "scale": CategoricalDistribution((0.01, 0.1, 1.0)),
}
