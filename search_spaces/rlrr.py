"""Search space of `rlrr`, 7 · 5 = 35 points; RLRR (arXiv 2403.19067) has no knob of its own."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import HTA_LR, HTA_WEIGHT_DECAY

SPACE: dict[str, BaseDistribution] = {
    # HTA's training grid, of the same group; RLRR gives no range.
    "lr": CategoricalDistribution(HTA_LR),
    "weight_decay": CategoricalDistribution(HTA_WEIGHT_DECAY),
}
