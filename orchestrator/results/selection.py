"""Selection of the winning configuration: the same rules for the search and the analysis."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from orchestrator.spec import Stage, TrialResult


def rank_configurations(rows: Iterable[TrialResult]) -> list[str]:
    """The configurations searched in one study, best first, by their hash (`Trial.config`).

    Only search rows that ran to the last epoch count. Higher value first; ties, which are common on
    200 images, go to the lower evaluation loss, then to fewer parameters, then to the hash.
    """
    return _best_first(_finished(rows, "search"))


def winner(rows: Iterable[TrialResult]) -> str | None:
    """The configuration of one study that is retrained on train + val, or None if none finished.

    The replicated one with the highest mean value over its seeds, ties as in
    `rank_configurations` on the means. A replicate that diverged counts as accuracy 0. Where
    nothing was replicated it is the best of the search.
    """
    rows = list(rows)
    replicated = _best_first(_finished(rows, "replicate"))
    return next(iter(replicated or rank_configurations(rows)), None)


def _finished(rows: Iterable[TrialResult], stage: Stage) -> dict[str, list[TrialResult]]:
    """Rows by configuration, those that have at least one full-length row."""
    groups: defaultdict[str, list[TrialResult]] = defaultdict(list)
    for row in rows:
        if row.trial.stage == stage and row.status in ("finished", "diverged"):
            groups[row.trial.config].append(row)
    return {
        config: group
        for config, group in groups.items()
        if any(row.status == "finished" for row in group)
    }


def _best_first(groups: Mapping[str, Sequence[TrialResult]]) -> list[str]:
    """Configurations, given their full-length rows, from the best to the worst."""
    return sorted(groups, key=lambda config: (*_rank(groups[config]), config))


def _rank(rows: Sequence[TrialResult]) -> tuple[float, float, int]:
    """The sort key, ascending: minus the mean value, mean evaluation loss, parameters."""
    values = sorted(row.value or 0.0 for row in rows)  # Sorted: the same mean in any order of rows.
    losses = sorted(math.inf if _missing(row.eval_loss) else row.eval_loss or 0.0 for row in rows)
    return -fmean(values), fmean(losses), max(row.parameters for row in rows)


def _missing(loss: float | None) -> bool:
    return loss is None or math.isnan(loss)
