"""Search space of `linear` (the head alone): the adapter has no field, so only the step size."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

SPACE: dict[str, BaseDistribution] = {
    # The learning rates of HTA's grid: a baseline deserves a tuned step size too.
    "lr": CategoricalDistribution((0.2, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0001)),
}
