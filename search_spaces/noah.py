"""Search space of `noah`: what its supernet holds (arXiv 2206.04673), 3³ · 4³ = 1,728 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

SPACE: dict[str, BaseDistribution] = {
    # NOAH's sizes of each part; its published VTAB-1k subnets use all three.
    "prompts": CategoricalDistribution((1, 5, 10)),
    "rank": CategoricalDistribution((1, 5, 10)),
    "hidden": CategoricalDistribution((1, 5, 10)),
    # NOAH's depths 3, 6, 9 and 12 of 12 blocks: None is all of them, here as there the published
    # subnets' choice.
    "prompts_depth": CategoricalDistribution((None, 9, 6, 3)),
    "rank_depth": CategoricalDistribution((None, 9, 6, 3)),
    "hidden_depth": CategoricalDistribution((None, 9, 6, 3)),
}
