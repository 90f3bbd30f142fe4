"""Search space of `adapter`, 3 · 4 · 4 = 48 points."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.grids import VPT_LR, VPT_WEIGHT_DECAY

SPACE: dict[str, BaseDistribution] = {
    # The sizes that Houlsby et al. search (arXiv 1902.00751, section 3); 8 is that of the VTAB-1k
    # comparisons. `position` stays at the usual one.
    "hidden": CategoricalDistribution((8, 64, 256)),
    "lr": CategoricalDistribution(VPT_LR),
    "weight_decay": CategoricalDistribution(VPT_WEIGHT_DECAY),
}
