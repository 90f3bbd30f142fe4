"""Statistics as pure functions of plain sequences, with stated axes.

What an interval is about is said by its name. *Over seeds*: the mean that other seeds would have on
the same images. *Over seeds and images*: the mean that other seeds would have on other images drawn
as these were. Seeds and images are crossed random effects: every trained model saw every image.

    correct[s, i] = accuracy + seed_s + image_i + rest_si

Shapes: S seeds, n images, T tasks. A quantity that is undefined is None, and `undefined` says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats takes half a second more to import.

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
EQUAL = 1e-12
"""Accuracies, or their differences, that are closer are equal: what lies between is rounding."""


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, `low <= high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Variance:
    """An estimated variance as a linear combination of independent mean squares.

    `parts` are (share, degrees of freedom); shares may be negative. Degrees of freedom of the sum
    are Satterthwaite's (Biometrics Bulletin 2, 1946): value² / Σ share² / df.
    """

    parts: tuple[tuple[float, float], ...] = ()

    @property
    def value(self) -> float:
        """The estimate, at least 0."""
        return max(math.fsum(share for share, _ in self.parts), 0.0)

    @property
    def freedom(self) -> float:
        """Degrees of freedom; infinite where nothing varies."""
        spread = math.fsum(share**2 / df for share, df in self.parts)
        return max(self.value**2 / spread, 1.0) if spread else math.inf

    def __add__(self, other: Variance) -> Variance:
        return Variance(self.parts + other.parts)

    def scaled(self, by: float) -> Variance:
        """Of the quantity times √by."""
        return Variance(tuple((share * by, df) for share, df in self.parts))


def total(variances: Iterable[Variance]) -> Variance:
    """The variance of a sum of independent quantities."""
    return sum(variances, Variance())


@dataclass(frozen=True)
class Estimate:
    """Mean of `values` (S,) in [0, 1], their sample standard deviation, and 95 % intervals of it.

    `interval` is over seeds, `images` over seeds and images. `undefined` says why `interval` is
    None; empty if it is not.
    """

    values: tuple[float, ...]
    mean: float | None
    std: float | None
    interval: Interval | None
    images: Interval | None = None
    undefined: str = ""

    @property
    def half(self) -> float | None:
        """Half the width of `interval`: the number after ±.

        None if undefined, or if an end of the interval is cut off at 0 or 1.
        """
        if self.interval is None or self.mean is None:
            return None
        low, high = self.mean - self.interval.low, self.interval.high - self.mean
        return (low + high) / 2 if math.isclose(low, high, abs_tol=1e-9) else None


def estimate(
    values: Sequence[float], answers: Answers | None = None, share: float | None = None
) -> Estimate:
    """The `Estimate` of accuracies (S,), with the answers that gave them.

    Where each is on a fold of its own, `share` is that of all images that a fold evaluates.
    """
    data = tuple(float(value) for value in values)
    mean = math.fsum(data) / len(data) if data else None
    undefined = why_undefined(data)
    interval = None if undefined or mean is None else t_interval(mean, over_seeds(data))
    images = None
    if mean is not None and answers is not None:
        images = share_interval(mean, answers.variance, answers.images)
    elif interval is not None and mean is not None and share is not None:
        images = t_interval(mean, over_folds(data, share))
    return Estimate(data, mean, sample_std(data), interval, images, undefined)


def average(
    rows: Sequence[Sequence[float]],
    weights: Sequence[float],
    answers: Sequence[Answers | None] = (),
) -> Estimate:
    """The `Estimate` of a weighted mean over tasks, from their accuracies (T, S) and answers (T,).

    The tasks stay; their seeds are independent, so the variance is the sum of the tasks' own, each
    with its weight squared. `values` are the means by seed where all tasks have as many.
    """
    undefined = next((why for row in rows if (why := _too_few(row))), "")
    if not rows or any(not row for row in rows):
        return Estimate((), None, None, None, None, undefined or "no task")
    pairs = list(zip(weights, rows, strict=True))
    mean = math.fsum(weight * math.fsum(row) / len(row) for weight, row in pairs)
    by_seed: list[float] = []
    if len({len(row) for row in rows}) == 1:
        columns = zip(*rows, strict=True)
        by_seed = [math.fsum(w * v for w, v in zip(weights, c, strict=True)) for c in columns]
    interval = images = None
    if not undefined:
        seeds = total(over_seeds(row).scaled(weight**2) for weight, row in pairs)
        undefined = "" if seeds.value else "the seeds of every task agree exactly"
        interval = t_interval(mean, seeds) if seeds.value else None
        known = [one for one in answers if one is not None]
        if len(known) == len(rows):
            both = zip(weights, known, strict=True)
            images = t_interval(mean, total(one.variance.scaled(w**2) for w, one in both))
    return Estimate(tuple(by_seed), mean, sample_std(by_seed), interval, images, undefined)


def _too_few(values: Sequence[float]) -> str:
    return why_undefined(values) if len(values) < 2 else ""


def why_undefined(values: Sequence[float]) -> str:
    """Why the spread over seeds of `values` (S,) cannot be estimated; empty if it can."""
    if not values:
        return "no seed"
    if len(values) == 1:
        return "one seed"
    return f"{len(values)} seeds agree exactly" if _equal(values) else ""


def _equal(values: Sequence[float]) -> bool:
    return max(values) - min(values) < EQUAL


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation of `values` (S,) with S - 1 in the denominator; None if S < 2."""
    return float(np.std(values, ddof=1)) if len(values) >= 2 else None


def over_seeds(values: Sequence[float]) -> Variance:
    """Of the mean of `values` (S,), S >= 2, over seeds: s² / S with S - 1 degrees of freedom."""
    spread = 0.0 if _equal(values) else float(np.var(values, ddof=1))
    return Variance(((spread / len(values), len(values) - 1),))


def over_folds(values: Sequence[float], share: float) -> Variance:
    """Of the mean of accuracies (S,) on S folds, over seeds and images.

    s² (1 / S + n_val / n_train), the second term because folds overlap (Nadeau & Bengio, Machine
    Learning 52, 2003, equation 7); `share` is n_val / (n_train + n_val), below 1.
    """
    return over_seeds(values).scaled(1 + len(values) * share / (1 - share))


class Answers:
    """Which of n images each of S >= 2 trained models had right: seeds by images, crossed."""

    def __init__(self, right: NDArray[Any]) -> None:
        """`right` (S, n), nonzero where an image was right; n >= 2."""
        self.seeds, self.images = right.shape
        self.by_image: Floats = np.mean(right, 0, dtype=np.float64)
        """The share of seeds that had an image right (n,)."""
        by_seed: Floats = np.mean(right, 1, dtype=np.float64)
        rest = right - by_seed[:, None] - self.by_image[None, :] + by_seed.mean()
        self.mean_square_seeds = self.images * float(np.var(by_seed, ddof=1))
        self.mean_square_images = self.seeds * float(np.var(self.by_image, ddof=1))
        self.mean_square_rest = float(np.sum(rest**2)) / ((self.seeds - 1) * (self.images - 1))

    @classmethod
    def of(cls, correct: Sequence[bytes]) -> Answers | None:
        """From vectors of one byte per image; None for one seed, or where they do not match."""
        lengths = {len(row) for row in correct}
        if len(correct) < 2 or len(lengths) != 1 or max(lengths) < 2:
            return None
        return cls(np.array([np.frombuffer(row, np.uint8) != 0 for row in correct]))

    @property
    def variance(self) -> Variance:
        """Of the mean over seeds, over seeds and images: (MS_S + MS_I - MS_R) / (S n)."""
        images = self.mean_square_images / (self.seeds * self.images)
        return Variance(((images, self.images - 1),)) + self.of_seeds

    @property
    def of_seeds(self) -> Variance:
        """Of the mean over seeds, what other seeds add to other images: (MS_S - MS_R) / (S n).

        Nothing where that is below 0: the seeds differ by no more than the rest explains.
        """
        if self.mean_square_seeds <= self.mean_square_rest:
            return Variance()
        return self.spread.scaled(1 / self.seeds)

    @property
    def spread(self) -> Variance:
        """Of one training's accuracy over seeds; may be below 0, for pooling."""
        rest = (-self.mean_square_rest / self.images, (self.seeds - 1) * (self.images - 1))
        return Variance(((self.mean_square_seeds / self.images, self.seeds - 1), rest))


class Folds:
    """Which of n images of each of S >= 2 folds one training of each of K >= 1 configurations had
    right. With several, only their differences are looked at: some folds are easier.
    """

    def __init__(self, right: NDArray[Any]) -> None:
        """`right` (K, S, n), nonzero where an image was right; n >= 2."""
        count, folds, images = right.shape
        own = (right - right.mean(0)) if count > 1 else np.asarray(right, dtype=np.float64)
        groups = max(count - 1, 1)
        by_fold = own.mean(2).var(1, ddof=1)
        self.mean_square_folds = float(by_fold.sum()) / groups
        """Of one training's accuracy, between folds."""
        self.freedom = groups * (folds - 1)
        self._images = float(own.var(2, ddof=1).mean(1).sum()) / groups / images
        self._more = groups * folds * (images - 1)

    @classmethod
    def of(cls, correct: Sequence[Mapping[int, bytes]]) -> Folds | None:
        """From each configuration's vectors by fold; None for less than two folds of all."""
        common = sorted(set.intersection(*map(set, correct))) if correct else []
        if len(common) < 2 or len({len(one[fold]) for one in correct for fold in common}) != 1:
            return None
        rows = [[np.frombuffer(one[fold], np.uint8) != 0 for fold in common] for one in correct]
        return cls(np.array(rows)) if len(rows[0][0]) > 1 else None

    def spread(self, share: float) -> Variance:
        """Of one training's accuracy over seeds; may be below 0.

        What the folds' images explain is taken off, as much as folds of the `share` of all images
        differ: var_i / n (1 - share), a sample's from a finite population.
        """
        images = -(1 - share) * self._images
        return Variance(((self.mean_square_folds, self.freedom), (images, self._more)))


def t_interval(
    mean: float, variance: Variance, confidence: float = CONFIDENCE, bounded: bool = True
) -> Interval:
    """Student's interval of a mean: mean ± t((1 + c) / 2, df) · √variance; `bounded` to [0, 1]."""
    half = t_quantile(variance.freedom, confidence) * math.sqrt(variance.value)
    low, high = mean - half, mean + half
    return Interval(max(low, 0.0), min(high, 1.0)) if bounded else Interval(low, high)


def share_interval(
    mean: float, variance: Variance, images: int, confidence: float = CONFIDENCE
) -> Interval:
    """Wilson's interval of a share in [0, 1], for as many independent images as its variance says.

    Effective number m = mean (1 - mean) / variance (Korn & Graubard, Survey Methodology 24, 1998),
    with Student's quantile at the variance's degrees of freedom. Where all n `images` have the same
    result their spread says nothing: m = n then.
    """
    spread = mean * (1 - mean)
    size = spread / variance.value if spread and variance.value else float(images)
    t2 = t_quantile(variance.freedom, confidence) ** 2
    middle = (mean + t2 / (2 * size)) / (1 + t2 / size)
    half = math.sqrt(t2 * (spread / size + t2 / (4 * size**2))) / (1 + t2 / size)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's distribution; of the normal one at infinite freedom."""
    if math.isinf(freedom):
        return float(special.ndtri((1 + confidence) / 2))
    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def two_sided(difference: float, variance: Variance) -> float:
    """p of Student's test that a difference is 0; 1 where nothing differs, 0 without any spread."""
    if not variance.value:
        return 1.0 if abs(difference) < EQUAL else 0.0
    t = abs(difference) / math.sqrt(variance.value)
    df = variance.freedom
    return float(2 * (special.ndtr(-t) if math.isinf(df) else special.stdtr(df, -t)))


def paired_images(first: bytes, second: bytes) -> Variance:
    """Of the difference of two trainings' accuracies on the same n >= 2 images, over images."""
    if len(first) != len(second):
        raise ValueError(f"paired vectors of {len(first)} and {len(second)} images")
    one, other = (np.frombuffer(row, np.uint8) != 0 for row in (first, second))
    return over_images(one.astype(np.float64) - other)


def over_images(by_image: Floats) -> Variance:
    """Of the mean of values (n,), one for each of n >= 2 images, over images: s² / n."""
    images = len(by_image)
    return Variance(((float(np.var(by_image, ddof=1)) / images, images - 1),))


def difference_over_images(first: Answers, second: Answers) -> Variance:
    """Of the difference of two means on the same images, over seeds and images.

    Images are paired, seeds are not: var_i(d_i) / n with d_i the difference of an image's means,
    and of either side what its seeds add (`Answers.of_seeds`).
    """
    return over_images(first.by_image - second.by_image) + first.of_seeds + second.of_seeds


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p (Scandinavian Journal of Statistics 6, 1979) of m tests, in their order."""
    adjusted, largest = [1.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def ranks(table: Floats) -> Floats:
    """Ranks within each row of `table` (T, k), 1 for the highest; equal values share theirs."""
    from scipy.stats import rankdata

    found: Floats = rankdata(-table, axis=1)
    return found


def friedman(table: Floats) -> float:
    """p of Friedman's test that the k columns of `table` (T, k) rank alike; 1 if all are equal."""
    from scipy.stats import friedmanchisquare

    if np.all(table == table[:, :1]):
        return 1.0
    return float(friedmanchisquare(*table.T).pvalue)


def critical_difference(adapters: int, tasks: int) -> float:
    """Nemenyi's at 5 %: of mean ranks of k adapters over T tasks (Demšar, JMLR 7, 2006, 3.2.2).

    q √(k (k + 1) / 6 T), where q is the studentised range's quantile over √2.
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(CONFIDENCE, adapters, math.inf)) / math.sqrt(2)
    return q * math.sqrt(adapters * (adapters + 1) / (6 * tasks))


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


def iqm_interval(
    scores: Sequence[Sequence[float]], *, repetitions: int = 2000, seed: int = 0
) -> Interval | None:
    """Student's interval of `interquartile_mean`, over seeds; tasks stay.

    The standard error is that of a bootstrap that draws seeds within each task (Agarwal et al.
    2021, section 4.1), each draw's distance from its task's mean widened by √(S / (S - 1)), since
    few seeds vary too little among themselves; degrees of freedom are those of the mean over tasks.
    The percentiles of the same draws would be far too narrow for a few seeds.

    Returns:
        None without tasks, if a task has a single seed, or if nothing varies.
    """
    if not scores or min(len(row) for row in scores) < 2:
        return None
    freedom = total(over_seeds(row) for row in scores).freedom
    if math.isinf(freedom):
        return None
    rng = np.random.default_rng(seed)
    _, weights = _pooled(scores)
    drawn = []
    for row in scores:
        values, count = np.asarray(row, dtype=np.float64), len(row)
        taken = values[rng.integers(count, size=(repetitions, count))]
        drawn.append(values.mean() + (taken - values.mean()) * math.sqrt(count / (count - 1)))
    variance = float(np.var(_weighted_iqm(np.concatenate(drawn, axis=1), weights)))
    return t_interval(interquartile_mean(scores), Variance(((variance, freedom),)))


def expected_best(values: Floats, drawn: int) -> Floats:
    """The expected maximum (R,) of `drawn` of the N values in each row of `values` (R, N).

    Drawn without replacement: the j-th smallest is the maximum in C(j - 1, drawn - 1) of the
    C(N, drawn) cases.
    """
    count = values.shape[1]
    cases, every = [math.comb(j, drawn - 1) for j in range(count)], math.comb(count, drawn)
    found: Floats = np.sort(values, axis=1) @ np.array([case / every for case in cases])
    return found


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
