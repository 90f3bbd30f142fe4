"""Search space of `linear` (the head alone): no field of its own, so only the step size."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import HTA_LR

SPACE: dict[str, BaseDistribution] = {
    # HTA's grid: a baseline deserves a tuned step size too. VPT's is for SGD (0.05 … 50).
    "lr": CategoricalDistribution(HTA_LR),
}
