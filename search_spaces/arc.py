"""Search space of `arc`, 3 · 7 · 5 = 105 points (arXiv 2310.06234)."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import HTA_LR, HTA_WEIGHT_DECAY

SPACE: dict[str, BaseDistribution] = {
    # 50 is the paper's bottleneck on ViT-B; half and twice of it are our choice.
    "rank": CategoricalDistribution((25, 50, 100)),
    # HTA's training grid, of the same group; ARC gives no range (its script has 0.01 and 0).
    "lr": CategoricalDistribution(HTA_LR),
    "weight_decay": CategoricalDistribution(HTA_WEIGHT_DECAY),
}
