"""The effect of selection on the test split: protocol `paper` minus protocol `honest`.

Both train their winner on train + val with the same seeds: seeds are paired. The difference has two
parts: the best epoch is reported instead of the last (measured on the curves of the same trials),
and the configuration is chosen on test instead of val (the rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.analysis.statistics import Interval, Variance, over_seeds, t_interval, total
from orchestrator.analysis.summary import SeedRow, StudySummary, Summary


@dataclass(frozen=True)
class Gap:
    """Accuracies in [0, 1] of one study under both protocols.

    Every number is a mean over the `seeds` seeds that both have finished. `interval` is that of the
    difference, over seeds (paired), on the same test images; None if it is not defined. `epochs` is
    best minus last epoch in the trials of `paper`; it and `choice` are None where a last epoch is
    missing.
    """

    task: str
    adapter: str
    seeds: int
    honest: float
    paper: float
    epochs: float | None
    variance: Variance | None = None

    @property
    def difference(self) -> float:
        """paper - honest."""
        return self.paper - self.honest

    @property
    def interval(self) -> Interval | None:
        """Of the difference, over seeds."""
        return _interval(self.difference, self.variance)

    @property
    def choice(self) -> float | None:
        """The part of the difference due to the choice of the configuration on test."""
        return None if self.epochs is None else self.difference - self.epochs


@dataclass(frozen=True)
class MeanGap:
    """One adapter: the mean of its `Gap`s over `tasks` tasks, those where both protocols exist.

    `interval`: of the difference, over seeds, on these tasks.
    """

    adapter: str
    tasks: int
    honest: float
    paper: float
    difference: float
    epochs: float | None
    choice: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Inflation:
    """The gaps by task and adapter, and their means over tasks by adapter, in the sweep's order."""

    gaps: tuple[Gap, ...]
    means: tuple[MeanGap, ...]

    def gap(self, task: str, adapter: str) -> Gap | None:
        """The gap of that study; None if a protocol lacks it."""
        return next((g for g in self.gaps if (g.task, g.adapter) == (task, adapter)), None)


def inflation(honest: Summary, paper: Summary) -> Inflation:
    """The gaps between two summaries of one sweep: means over seeds, then over tasks."""
    pairs = ((study, paper.study(study.task, study.adapter)) for study in honest.studies)
    gaps = tuple(gap for pair in pairs if (gap := _gap(*pair)))
    means = (
        _mean([gap for gap in gaps if gap.adapter == adapter]) for adapter in honest.sweep.adapters
    )
    return Inflation(gaps, tuple(mean for mean in means if mean))


def _gap(honest: StudySummary, paper: StudySummary) -> Gap | None:
    ours, theirs = _values(honest.finals), _values(paper.finals)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    epochs = [
        None if row.value is None or row.last is None else row.value - row.last
        for row in paper.finals
        if row.seed in seeds
    ]
    return Gap(
        task=honest.task,
        adapter=honest.adapter,
        seeds=len(seeds),
        honest=fmean(ours[seed] for seed in seeds),
        paper=fmean(theirs[seed] for seed in seeds),
        epochs=_mean_of(epochs),
        variance=over_seeds([theirs[s] - ours[s] for s in seeds]) if len(seeds) > 1 else None,
    )


def _values(rows: Sequence[SeedRow]) -> dict[int, float]:
    return {row.seed: row.value for row in rows if row.value is not None}


def _mean(gaps: Sequence[Gap]) -> MeanGap | None:
    """The mean over `gaps` (tasks,); None without any."""
    if not gaps:
        return None
    return MeanGap(
        adapter=gaps[0].adapter,
        tasks=len(gaps),
        honest=fmean(gap.honest for gap in gaps),
        paper=fmean(gap.paper for gap in gaps),
        difference=fmean(gap.difference for gap in gaps),
        epochs=_mean_of([gap.epochs for gap in gaps]),
        choice=_mean_of([gap.choice for gap in gaps]),
        interval=_interval(fmean(gap.difference for gap in gaps), _mean_variance(gaps)),
    )


def _mean_variance(gaps: Sequence[Gap]) -> Variance | None:
    known = [gap.variance for gap in gaps if gap.variance is not None]
    return total(known).scaled(1 / len(gaps) ** 2) if len(known) == len(gaps) else None


def _interval(difference: float, variance: Variance | None) -> Interval | None:
    """None where the spread over seeds is not known, or all of them agree."""
    if variance is None or not variance.value:
        return None
    return t_interval(difference, variance, bounded=False)


def _mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of `values` (n,); None if a value is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
