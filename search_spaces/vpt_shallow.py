"""Search space of `vpt_shallow`, 6 · 7 = 42 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import HTA_LR

SPACE: dict[str, BaseDistribution] = {
    # Prompt lengths that the VPT paper tries (arXiv 2203.12119, section 4).
    "prompts": CategoricalDistribution((1, 5, 10, 50, 100, 200)),
    # HTA's grid: VPT's own rates (0.05 … 50) are for SGD.
    "lr": CategoricalDistribution(HTA_LR),
}
