"""What the replicates of a study say about the noise of one training's accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from orchestrator.analysis.statistics import Answers, Folds, Variance, total
from orchestrator.spec import TrialResult

Rows = Sequence[TrialResult]


@dataclass(frozen=True)
class SeedNoise:
    """`spread` is what another seed changes of one training's accuracy on other images: nothing
    where nothing was replicated, or where the replicates differ by no more than their images
    explain. `drawn` is the variance of what each replicate draws anew.

    `share` of a replicate's images are those of every other; `rest` is the part of a training's
    variance over images that is not the configuration's.
    """

    spread: Variance = field(default_factory=Variance)
    share: float = 1.0
    rest: float = 0.0
    drawn: float = 0.0

    @classmethod
    def of(cls, reference: TrialResult, rows: Rows, share: float = 1.0) -> SeedNoise:
        """From the replicates among a study's `rows`, with as many images as `reference`.

        `share`: of the images of train and val, how many a fold evaluates; 1 takes the images that
        folds have in common for all of them, and so the noise for larger than it is.
        """
        found = replicates(reference, rows)
        if any(row.trial.data != reference.trial.data for own in found.values() for row in own):
            return cls._of_folds(found.values(), share)
        several = [
            answers
            for own in found.values()
            if (answers := Answers.of([row.correct for row in own])) is not None
        ]
        if not several:
            return cls()
        pooled = total(one.spread for one in several).scaled(1 / len(several))
        rest = fmean(one.mean_square_rest / one.images for one in several)
        seeds = fmean(one.mean_square_seeds / one.images for one in several)
        return cls(_positive(pooled), 1.0, rest, max(seeds, rest))

    @classmethod
    def _of_folds(cls, found: Iterable[Rows], share: float) -> SeedNoise:
        folds = Folds.of([{row.trial.seed: row.correct for row in own} for own in found])
        if folds is None:
            return cls()
        return cls(_positive(folds.spread(share)), share, 0.0, folds.mean_square_folds)

    def stays(self, single: float) -> float:
        """Of the variance of one training's accuracy over images, the part that all replicates of
        its configuration share.
        """
        return self.share * max(single - self.rest, 0.0)


def replicates(reference: TrialResult, rows: Rows) -> dict[str, list[TrialResult]]:
    """The replicates among `rows`, by configuration, with as many images as `reference`."""
    found: dict[str, list[TrialResult]] = {}
    for row in rows:
        if row.trial.stage == "replicate" and len(row.correct) == len(reference.correct):
            found.setdefault(row.trial.config, []).append(row)
    return found


def same_images(first: TrialResult, second: TrialResult) -> bool:
    """Whether two rows are paired: of one seed, on the same images."""
    same = (first.trial.seed, first.trial.data) == (second.trial.seed, second.trial.data)
    return same and len(first.correct) == len(second.correct) > 1


def _positive(variance: Variance) -> Variance:
    return variance if variance.value else Variance()
