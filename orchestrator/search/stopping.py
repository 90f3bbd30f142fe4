"""Stopping rules: which trials of a study are ended early.

A rule is a class in `RULES` with two methods: `rungs` gives the epochs at which a trial reports its
accuracy, `stops` records the report and decides. Each study has an object of its own, so trials are
compared only with trials of their study. Used by `StudyRun`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median
from typing import Protocol

from orchestrator.errors import unknown
from orchestrator.spec import Recipe

ETA = 3
LEAST = 5
"""Trials at a rung, below which `Median` ends none."""
PATIENCE = 3
"""Rungs without a gain, after which `Patience` ends a trial."""


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
        epoch = _first_rung(recipe)
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


class Median:
    """A trial ends at a rung if it is strictly below the median of the others that were there.

    Rungs are at m, 2m, 3m … epochs, m as in `Asha`; nothing ends before a rung holds five others.

    Reference: Golovin et al. 2017, "Google Vizier", section 3.2.2, with the values at the rung in
    place of running averages.
    """

    def __init__(self) -> None:
        self._values: defaultdict[int, dict[str, float]] = defaultdict(dict)

    def rungs(self, recipe: Recipe) -> tuple[int, ...]:
        """The epochs of the rungs, see the class."""
        return _even_rungs(recipe)

    def stops(self, key: str, epoch: int, value: float) -> bool:
        """True if `value` is strictly below the others' median at this rung; see the class."""
        if not math.isfinite(value):
            return False  # the pool ends a diverged trial itself
        rung = self._values[epoch]
        rung[key] = value
        others = [one for other, one in rung.items() if other != key]
        return len(others) >= LEAST and value < median(others)


class Patience:
    """A trial ends once its best accuracy is three rungs old, whatever the other trials do.

    Rungs are those of `Median`.
    """

    def __init__(self) -> None:
        self._values: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def rungs(self, recipe: Recipe) -> tuple[int, ...]:
        """The epochs of the rungs, see the class."""
        return _even_rungs(recipe)

    def stops(self, key: str, epoch: int, value: float) -> bool:
        """True if the last three rungs, this one included, brought nothing; see the class."""
        own = self._values[key]
        own[epoch] = value
        known = [own[at] for at in sorted(own) if at <= epoch]
        before, last = known[:-PATIENCE], known[-PATIENCE:]
        return bool(before) and max(last) <= max(before)


def _first_rung(recipe: Recipe) -> int:
    """Not inside warm-up, where learning rates are misranked."""
    return max(recipe.warmup_epochs + 1, math.ceil(recipe.epochs / ETA**2))


def _even_rungs(recipe: Recipe) -> tuple[int, ...]:
    first = _first_rung(recipe)
    return tuple(range(first, recipe.epochs, first))


RULES: dict[str, type[StoppingRule]] = {
    "none": NoStopping,
    "asha": Asha,
    "median": Median,
    "patience": Patience,
}


def make_rule(name: str) -> StoppingRule:
    """A fresh rule of that name; `InvalidInput` with the alternatives otherwise."""
    if name not in RULES:
        raise unknown("stopping rule", name, RULES)
    return RULES[name]()
