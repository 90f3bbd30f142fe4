"""Search space of `hta_adapter`: that of `hta`, of the same paper, 2,100 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import HTA_LR, HTA_WEIGHT_DECAY

SPACE: dict[str, BaseDistribution] = {
    # HTA's ablation has these ranks for `hta`; the paper gives no others for the alternative.
    "rank": CategoricalDistribution((0, 1, 2, 4)),
    # The rest is HTA's training grid.
    "dropout": CategoricalDistribution((0.5, 0.3, 0.2, 0.1, 0.0)),
    "lr": CategoricalDistribution(HTA_LR),
    "weight_decay": CategoricalDistribution(HTA_WEIGHT_DECAY),
    "batch": CategoricalDistribution((64, 32, 16)),
}
