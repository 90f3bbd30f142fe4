"""Statistics as pure functions of plain sequences, with stated axes.

A quantity that is undefined, such as an interval of one value, is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes half a second more to import.

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, `low <= high`."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share at least one point."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Estimate:
    """Mean of `values` (n,), sample standard deviation and 95 % Student-t interval of the mean.

    All are in the unit of the values. Without values everything is None; with one value `std` and
    `interval` are None.
    """

    values: tuple[float, ...]
    mean: float | None
    std: float | None
    interval: Interval | None

    @property
    def half(self) -> float | None:
        """Half the width of the interval: the number after ±; None if undefined."""
        return None if self.interval is None else (self.interval.high - self.interval.low) / 2


def estimate(values: Sequence[float]) -> Estimate:
    """The `Estimate` of `values` (n,), over its only axis."""
    data = tuple(float(value) for value in values)
    mean = math.fsum(data) / len(data) if data else None
    return Estimate(data, mean, sample_std(data), t_interval(data))


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation of `values` (n,) with n - 1 in the denominator; None if n < 2."""
    return float(np.std(values, ddof=1)) if len(values) >= 2 else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's interval of the mean of `values` (n,): mean ± t((1 + c) / 2, n - 1) · s / √n.

    c is `confidence`, t the quantile of the t-distribution with n - 1 degrees of freedom, s the
    sample deviation. None if n < 2.
    """
    std = sample_std(values)
    if std is None:
        return None
    n = len(values)
    mean = math.fsum(values) / n
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * std / math.sqrt(n)
    return Interval(mean - half, mean + half)


def interquartile_mean(scores: Sequence[Sequence[float]]) -> float:
    """Interquartile mean: the mean of the middle half of all scores, pooled over tasks and seeds.

    Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS
    2021, section 4.3 (library: rliable). There a 25 % trimmed mean; here the cut at the quartiles
    is exact (a score on the edge counts in part), which is the same where the number of scores is a
    multiple of four.

    Args:
        scores: (tasks, seeds), `scores[t]` the seeds of task t. Tasks may have different numbers of
            seeds: a score has the weight 1 / (seeds of its task), so that tasks weigh the same.

    Raises:
        ValueError: no task, or a task without scores.
    """
    values, weights = _pooled(scores)
    return float(_weighted_iqm(values[None, :], weights)[0])


def bootstrap_iqm(
    scores: Sequence[Sequence[float]],
    *,
    confidence: float = 0.95,
    repetitions: int = 5000,
    seed: int = 0,
) -> Interval | None:
    """Stratified percentile-bootstrap interval of `interquartile_mean`.

    Agarwal et al. 2021 (as there), section 4.1: seeds are drawn with replacement within each task,
    tasks are fixed. The interval covers other seeds, not other tasks. With three seeds it is too
    narrow.

    Args:
        scores: (tasks, seeds), as for `interquartile_mean`.
        confidence: share of the draws inside the interval.
        repetitions: number of draws.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        None without tasks, or if a task has a single seed: its stratum cannot vary.
    """
    if not scores or min(len(row) for row in scores) < 2:
        return None
    rng = np.random.default_rng(seed)
    _, weights = _pooled(scores)
    drawn = [
        np.asarray(row, dtype=np.float64)[rng.integers(len(row), size=(repetitions, len(row)))]
        for row in scores
    ]
    found = _weighted_iqm(np.concatenate(drawn, axis=1), weights)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class McNemar:
    """Numbers of images that only the first, or only the second, classified correctly, and p."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: bytes, second: bytes) -> McNemar:
    """Exact two-sided McNemar test (McNemar, Psychometrika 12, 1947; binomial form).

    Of b + c discordant images, b are correct in the first only, c in the second only. Under the
    null hypothesis b is binomial with probability 1/2: p = min(1, 2 · P[Bin(b + c, 1/2) <=
    min(b, c)]), which is 1 without discordant images.

    Args:
        first, second: (images,) one byte each, nonzero where correct, of the same images.

    Raises:
        ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"paired vectors of {len(first)} and {len(second)} images")
    a = np.frombuffer(first, dtype=np.uint8) != 0
    b = np.frombuffer(second, dtype=np.uint8) != 0
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p = 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return McNemar(only_a, only_b, min(1.0, p))


def min_max(values: Sequence[float]) -> list[float] | None:
    """`values` (n,) scaled linearly to [0, 1]; None if all are equal."""
    low, high = min(values), max(values)
    return None if low == high else [(value - low) / (high - low) for value in values]


def _pooled(scores: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    """All scores (N,) and their weights (N,), which sum to 1 with equal shares per task."""
    if not scores or not all(scores):
        raise ValueError("an interquartile mean needs at least one score for every task")
    values = np.concatenate([np.asarray(row, dtype=np.float64) for row in scores])
    shares = [np.full(len(row), 1 / (len(row) * len(scores))) for row in scores]
    return values, np.concatenate(shares)


def _weighted_iqm(values: Floats, weights: Floats) -> Floats:
    """Interquartile means (R,) of the rows of `values` (R, N) with column weights (N,)."""
    order = np.argsort(values, axis=1, kind="stable")
    ranked, mass = np.take_along_axis(values, order, axis=1), weights[order]
    upper = np.cumsum(mass, axis=1)
    inside = np.clip(np.minimum(upper, 0.75) - np.maximum(upper - mass, 0.25), 0, None)
    total: Floats = np.sum(ranked * inside, axis=1) / np.sum(inside, axis=1)
    return total
