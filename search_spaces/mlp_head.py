"""Search space of `mlp_head`, 7 · 5 = 35 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import HTA_LR, HTA_WEIGHT_DECAY

SPACE: dict[str, BaseDistribution] = {
    # HTA's grid, as for `linear`: VPT's own rates for this head are for SGD. Depth and dropout
    # stay at VPT's.
    "lr": CategoricalDistribution(HTA_LR),
    "weight_decay": CategoricalDistribution(HTA_WEIGHT_DECAY),
}
