"""Search space of `lora` (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

SPACE: dict[str, BaseDistribution] = {
    # Hu et al., table 6, compares ranks 1, 2, 4, 8 and 64; EFFT's grid for the same backbone and
    # tasks is 8, 16, 32. alpha stays at its default (the rank), so the update's scale is 1.
    "rank": CategoricalDistribution((2, 4, 8, 16, 32)),
}
