"""Averages over tasks, the best adapter of each task, and differences from `linear`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from orchestrator.analysis.statistics import Estimate, bootstrap_iqm, estimate, interquartile_mean
from orchestrator.analysis.summary import AdapterSummary, Best, Comparison, StudySummary

BASELINE = "linear"
"""The adapter that the others are compared with."""

Studies = Sequence[StudySummary]


def over_tasks(adapter: str, studies: Studies) -> AdapterSummary:
    """The adapter's averages over the tasks of `studies`, each only where its tasks are complete.

    Estimates are over seeds: the mean over tasks is taken for each seed first.
    """
    own = [study for study in studies if study.adapter == adapter]
    groups = {
        name: _by_seed([study for study in own if study.group == name])
        for name in dict.fromkeys(study.group for study in own)
    }
    every = _by_seed(own)
    complete = bool(every)
    scores = [study.test.values for study in own]
    winners = [study.winner for study in own if study.winner]
    return AdapterSummary(
        adapter=adapter,
        groups={name: estimate(values) for name, values in groups.items()},
        mean_tasks=estimate(every),
        mean_groups=estimate(_columns_mean(list(groups.values())) if complete else []),
        iqm=interquartile_mean(scores) if complete else None,
        iqm_interval=bootstrap_iqm(scores) if complete else None,
        parameters=fmean(item.parameters for item in winners) if winners else None,
        device_seconds=sum(study.device_seconds for study in own),
        missing=tuple(study.task for study in own if study.missing),
    )


def best_adapters(studies: Studies) -> tuple[Best, ...]:
    """The best adapter of each task that has any finished final trial, in the order of tasks."""
    found = []
    for task in dict.fromkeys(study.task for study in studies):
        measured = [study for study in studies if study.task == task and study.test.values]
        if measured:
            top, *others = sorted(measured, key=lambda study: -(study.test.mean or 0.0))
            close = [study.adapter for study in others if not _disjoint(top.test, study.test)]
            found.append(Best(task, top.adapter, tuple(close)))
    return tuple(found)


def compare(studies: Studies, adapters: Sequence[AdapterSummary]) -> tuple[Comparison, ...]:
    """Every adapter minus `linear`, per task and for the mean of tasks, where both exist."""
    pairs: list[tuple[str, str | None, Estimate]] = [
        (study.adapter, study.task, study.test) for study in studies
    ]
    pairs += [(item.adapter, None, item.mean_tasks) for item in adapters]
    measured = [(*pair, pair[-1].mean) for pair in pairs if pair[-1].mean is not None]
    baseline = {task: (value, mean) for name, task, value, mean in measured if name == BASELINE}
    return tuple(
        Comparison(adapter, task, mean - baseline[task][1], _disjoint(value, baseline[task][0]))
        for adapter, task, value, mean in measured
        if adapter != BASELINE and task in baseline
    )


def _by_seed(studies: Studies) -> list[float]:
    """For each seed the mean over tasks (seeds,); empty unless every study is complete."""
    if not studies or any(study.missing for study in studies):
        return []
    return _columns_mean([study.test.values for study in studies])


def _columns_mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


def _disjoint(first: Estimate, second: Estimate) -> bool | None:
    if first.interval is None or second.interval is None:
        return None
    return not first.interval.overlaps(second.interval)
