"""Search space of `ssf`, 4 · 2 = 8 points; SSF (arXiv 2210.08823) has no knob of its own."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

SPACE: dict[str, BaseDistribution] = {
    # The paper gives no range. Its VTAB-1k scripts choose a rate per task, such as 0.01 and 0.05;
    # its CIFAR-100 script has 0.001. 0.005 between them is ours.
    "lr": CategoricalDistribution((0.05, 0.01, 0.005, 0.001)),
    # The two values of those scripts.
    "weight_decay": CategoricalDistribution((0.05, 5e-5)),
}
