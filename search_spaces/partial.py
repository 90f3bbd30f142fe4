"""Search space of `partial`: the grid of the VPT paper for this baseline, 16 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import VPT_LR, VPT_WEIGHT_DECAY

SPACE: dict[str, BaseDistribution] = {
    "lr": CategoricalDistribution(VPT_LR),
    "weight_decay": CategoricalDistribution(VPT_WEIGHT_DECAY),
}
