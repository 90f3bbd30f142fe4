"""Tables that the command line prints: the plan, status and outcome of a sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.table import Table

from orchestrator.analysis.summary import NOT_STARTED, StudySummary, Summary
from orchestrator.cli.console import console
from orchestrator.cli.progress import duration, percent
from orchestrator.results.consistency import misfits
from orchestrator.results.ledger import Ledger
from orchestrator.results.sweep_file import SweepFile
from orchestrator.search.samplers import planned_configurations
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.storage.sweep_paths import SweepPaths

if TYPE_CHECKING:
    from orchestrator.engine.pool import Pool
    from orchestrator.spec import Study, TrialResult
    from orchestrator.sweep import Outcome, Planned

_STEPS = 3
"""Optimiser steps that are timed for the estimate of a plan."""

LEAKS = (
    "protocol paper LEAKS: epochs and configurations were chosen on the test split, as the "
    "published scripts do"
)


def print_plan(planned: Planned) -> None:
    """Print studies, trials per stage and an estimate of their time."""
    sweep = planned.sweep
    for name in sweep.adapters:
        searched = ", ".join(f"{n} {v}" for n, v in sweep.spaces[name].items()) or "nothing"
        console.print(f"{name} searches {searched}")
    table = make_table("study", "configurations", "replicates", "finals", "trial-epochs")
    trials = epochs = 0
    seconds = 0.0
    rates = _seconds_per_epoch(planned)
    for study in planned.studies:
        wanted = planned_configurations(sweep.sampler, study.space, sweep.trials)
        replicas = min(sweep.replicate, wanted) * sweep.seeds if wanted > 1 else 0
        both = sweep.default_of(study.task, study.adapter, study.protocol)
        finals = sweep.seeds * (2 if both else 1)
        count = wanted + replicas + finals
        work = count * study.recipe.epochs
        table.add_row(study.name, *map(str, (wanted, replicas, finals, work)))
        trials, epochs = trials + count, epochs + work
        seconds += work * rates[study.adapter]
    console.print(table)
    recipe = ", ".join(f"{name}={value}" for name, value in asdict(sweep.recipe).items())
    if sweep.published_recipes:
        recipe = f"that of each adapter's authors; where they say nothing, {recipe}"
    console.print(f"recipe: {recipe}")
    console.print(f"sampler {sweep.sampler}, stopping {sweep.stopping}, seeds {sweep.seeds}")
    recorded = len(Ledger(planned.paths.ledger).keys())
    console.print(
        f"{len(planned.studies)} studies, {trials} trials, {epochs} trial-epochs at most; "
        f"{recorded} trials recorded already; about {duration(seconds)} in all on this device"
    )


def print_status(found: SweepFile, paths: SweepPaths) -> None:
    """Print what the ledger has of each study, and what is missing."""
    from orchestrator.analysis.aggregate import summarise

    results = Ledger(paths.ledger).results()
    summaries = [
        summarise(results, found.sweep, found.suite, protocol, found.counts)
        for protocol in found.sweep.protocols
    ]
    studies = [study for summary in summaries for study in summary.studies]
    console.print(found.command)
    table = make_table(
        "study", "search", "replicate", "final", "stopped", "diverged", "val %", "test %"
    )
    for study in studies:
        table.add_row(study.name, *_counts(study), percent(study.val.mean), _interval(study))
    console.print(table)
    if any(summary.leaks for summary in summaries):
        console.print(LEAKS, style="bold red")
    print_problems(found, results, paths)
    _print_missing(studies)


def print_problems(found: SweepFile, results: Sequence[TrialResult], paths: SweepPaths) -> bool:
    """Print what of a sweep's folder cannot be read or does not fit; whether anything does not."""
    left_out: list[str] = []
    suggested = SuggestionStore(paths.asks).keys(left_out.append)
    wrong = misfits(found, results, suggested, paths.trained())
    _print_notes(wrong, left_out)
    return bool(wrong)


def print_outcome(outcome: Outcome, paths: SweepPaths) -> None:
    """Print the result table and the locations of report, registry and MLflow."""
    for protocol, summary in outcome.summaries.items():
        if protocol != "honest":
            console.print(LEAKS, style="bold red")
        console.print(_results(summary))
    print_notes(outcome)
    for key, message in outcome.failures.items():
        console.print(f"failed: {key}: {message}", style="red")
    if outcome.tracking:
        console.print(outcome.tracking, style="yellow")
    facts = [summary.run for summary in outcome.summaries.values() if summary.run.trials]
    span = max((f.finished for f in facts), default=0) - min((f.started for f in facts), default=0)
    console.print(
        f"{sum(f.trials for f in facts)} trials, {sum(f.trial_epochs for f in facts)} "
        f"trial-epochs, {duration(span)} from first to last"
    )
    console.print(
        f"report: {paths.shown(paths.report)}\nregistry: {paths.shown(paths.registry)}\n"
        f"MLflow: {outcome.mlflow}"
    )


def print_notes(outcome: Outcome) -> None:
    """Print which studies have no result, and what of the folder does not belong together."""
    for summary in outcome.summaries.values():
        _print_missing(summary.studies)
    _print_notes(outcome.misfits, outcome.left_out)


def _print_notes(wrong: Sequence[str], left_out: Sequence[str]) -> None:
    for sentence in wrong:
        console.print(sentence, style="red")
    for sentence in left_out:
        console.print(sentence, style="yellow")


def _print_missing(studies: Sequence[StudySummary]) -> None:
    for study in studies:
        if study.missing and study.missing != NOT_STARTED:
            console.print(f"{study.name}: {study.missing}")
    waiting = [study.name for study in studies if study.missing == NOT_STARTED]
    if waiting:
        console.print(f"{NOT_STARTED}: {', '.join(waiting)}")


def _results(summary: Summary) -> Table:
    adapters = summary.sweep.adapters
    table = make_table("test accuracy %", *adapters)
    for task in summary.tasks:
        cells = [_interval(summary.study(task.name, adapter)) for adapter in adapters]
        table.add_row(task.name, *cells)
    if len(summary.tasks) > 1:
        table.add_section()
        for group in summary.groups if len(summary.groups) > 1 else ():
            means = [item.groups[group].mean for item in summary.adapters]
            table.add_row(f"mean of {group}", *map(percent, means))
        table.add_row("mean of tasks", *(percent(i.mean_tasks.mean) for i in summary.adapters))
        if len(summary.groups) > 1:
            means = [item.mean_groups.mean for item in summary.adapters]
            table.add_row("mean of group means", *map(percent, means))
    return table


def _interval(study: StudySummary) -> str:
    if study.test.mean is None:
        return "–"
    half, interval = study.test.half, study.test.interval
    if half is not None:
        return f"{percent(study.test.mean)} ± {percent(half)}"
    ends = "" if interval is None else f" [{percent(interval.low)}, {percent(interval.high)}]"
    return f"{percent(study.test.mean)}{ends}"


def _counts(study: StudySummary) -> list[str]:
    finished = [
        study.counts.get(stage, {}).get("finished", 0) for stage in ("search", "replicate", "final")
    ]
    early = [
        sum(by.get(status, 0) for by in study.counts.values()) for status in ("stopped", "diverged")
    ]
    return [str(count) for count in finished + early]


def make_table(*columns: str) -> Table:
    """An empty table: the first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _seconds_per_epoch(planned: Planned) -> dict[str, float]:
    """Adapter → device seconds per trial-epoch, measured on one trial of its first study."""
    import torch

    from orchestrator.backbones import load_backbone
    from orchestrator.backends.local import pick_device
    from orchestrator.engine.pool import Pool

    backbone = load_backbone(planned.sweep.backbone)
    device = torch.device(pick_device(planned.config.device))
    first = {study.adapter: study for study in reversed(planned.studies)}
    return {name: _measure(Pool(backbone, device), planned, first[name]) for name in first}


def _measure(pool: Pool, planned: Planned, study: Study) -> float:
    """Times a few optimiser steps and scales them to an epoch with its evaluation."""
    from orchestrator.data.splits import open_search
    from orchestrator.search.configurations import search_trial

    data = open_search(planned.suite.store, planned.suite.task(study.task), planned.data_root)
    # A leaking trial takes as long as an honest one.
    pool.add(search_trial(replace(study, protocol="honest"), {}), data)
    pool.advance()
    began = time.perf_counter()
    for _ in range(_STEPS):
        pool.advance()
    step = (time.perf_counter() - began) / _STEPS
    # An evaluation image costs about half a training image: forward only.
    images = len(data.train) + len(data.val) / 2
    return step * images / study.recipe.batch
