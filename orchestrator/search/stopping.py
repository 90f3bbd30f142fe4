"""Stopping rules: which trials of a study are ended early.

A rule is a class in `RULES` with two methods: `rungs` gives the epochs at which a trial reports its
accuracy, `stops` records the report and decides. Each study has an object of its own, so trials are
compared only with trials of their study. Used by `StudyRun`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Protocol

from orchestrator.errors import unknown
from orchestrator.spec import Recipe

ETA = 3


class StoppingRule(Protocol):
    """The interface of a rule; the results of both methods depend only on what was reported."""

    def rungs(self, recipe: Recipe) -> tuple[int, ...]:
        """The epochs (1 … epochs - 1, ascending) after which a search trial reports."""
        ...

    def stops(self, key: str, epoch: int, value: float) -> bool:
        """Record that trial `key` has accuracy `value` after `epoch`; True if it should end there.

        The same report twice, after a restart, must count once.
        """
        ...


class NoStopping:
    """Every trial runs to its last epoch."""

    def rungs(self, recipe: Recipe) -> tuple[int, ...]:
        """No rungs."""
        return ()

    def stops(self, key: str, epoch: int, value: float) -> bool:
        """Always False."""
        return False


class Asha:
    """Asynchronous successive halving, the stopping variant, as one bracket.

    Rungs are at m, 3m, 9m … epochs before the last, m = max(warm-up + 1, ⌈epochs / 9⌉): none inside
    warm-up, where learning rates are misranked (10 epochs with 2 of warm-up: 3 and 9; 100 with 10:
    12 and 36). At a rung with n values, its own included, a trial ends if it is strictly below the
    ⌈n/3⌉-th best; so ties survive, and nothing ends before a rung holds 3 values.

    Reference: Li et al. 2020, "A system for massively parallel hyperparameter tuning".
    """

    def __init__(self) -> None:
        self._values: defaultdict[int, dict[str, float]] = defaultdict(dict)

    def rungs(self, recipe: Recipe) -> tuple[int, ...]:
        """The epochs of the rungs, see the class."""
        epoch = max(recipe.warmup_epochs + 1, math.ceil(recipe.epochs / ETA**2))
        epochs = []
        while epoch < recipe.epochs:
            epochs.append(epoch)
            epoch *= ETA
        return tuple(epochs)

    def stops(self, key: str, epoch: int, value: float) -> bool:
        """True if `value` is strictly below the best third at this rung; see the class."""
        if not math.isfinite(value):
            return False  # the pool ends a diverged trial itself
        rung = self._values[epoch]
        rung[key] = value
        if len(rung) < ETA:
            return False
        cutoff = sorted(rung.values(), reverse=True)[math.ceil(len(rung) / ETA) - 1]
        return value < cutoff


RULES: dict[str, type[StoppingRule]] = {"none": NoStopping, "asha": Asha}


def make_rule(name: str) -> StoppingRule:
    """A fresh rule of that name; `InvalidInput` with the alternatives otherwise."""
    if name not in RULES:
        raise unknown("stopping rule", name, RULES)
    return RULES[name]()
