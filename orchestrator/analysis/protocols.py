"""What selecting on the test split would have reported: protocol `paper` against `honest`.

Both retrain their winner on train + val with the same seeds, so seeds are paired. The difference
has two parts: reporting the best epoch instead of the last, which the curves of the very same
trials show, and choosing the configuration on test instead of val, which is the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.analysis.summary import SeedRow, StudySummary, Summary


@dataclass(frozen=True)
class Gap:
    """Accuracies in [0, 1] of both protocols, `seeds` being those that both have finished.

    Every figure is a mean over those seeds. `difference` is paper - honest. `epochs` is best minus
    last epoch in the trials of `paper`, `choice` the rest; both None where a curve lacks its last
    epoch.
    """

    task: str
    adapter: str
    seeds: int
    honest: float
    paper: float
    epochs: float | None

    @property
    def difference(self) -> float:
        """What the protocol `paper` adds to the reported figure."""
        return self.paper - self.honest

    @property
    def choice(self) -> float | None:
        """The part of the difference that choosing the configuration on test makes."""
        return None if self.epochs is None else self.difference - self.epochs


@dataclass(frozen=True)
class MeanGap:
    """One adapter: the mean of its `Gap`s over `tasks` tasks, those where both protocols exist."""

    adapter: str
    tasks: int
    honest: float
    paper: float
    difference: float
    epochs: float | None
    choice: float | None


@dataclass(frozen=True)
class Inflation:
    """All gaps, task by task, and their means over tasks, in the order of the sweep's adapters."""

    gaps: tuple[Gap, ...]
    means: tuple[MeanGap, ...]

    def gap(self, task: str, adapter: str) -> Gap | None:
        """The gap of that study, None where a protocol lacks it."""
        return next((g for g in self.gaps if (g.task, g.adapter) == (task, adapter)), None)


def inflation(honest: Summary, paper: Summary) -> Inflation:
    """The gaps between two summaries of one sweep, over seeds first and over tasks then."""
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
    chosen = [row for row in paper.finals if row.seed in seeds]
    return Gap(
        task=honest.task,
        adapter=honest.adapter,
        seeds=len(seeds),
        honest=fmean(ours[seed] for seed in seeds),
        paper=fmean(theirs[seed] for seed in seeds),
        epochs=_mean_of([_best_minus_last(row) for row in chosen]),
    )


def _values(rows: Sequence[SeedRow]) -> dict[int, float]:
    return {row.seed: row.value for row in rows if row.value is not None}


def _best_minus_last(row: SeedRow) -> float | None:
    return None if row.value is None or row.last is None else row.value - row.last


def _mean(gaps: Sequence[Gap]) -> MeanGap | None:
    """Over tasks (axis 0 of `gaps`), each with the same weight."""
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
    )


def _mean_of(values: Sequence[float | None]) -> float | None:
    """The mean (over the only axis), None if a value is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
