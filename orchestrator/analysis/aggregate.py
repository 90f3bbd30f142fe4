"""Makes the `Summary` of a sweep from ledger rows: winners, evidence, averages over tasks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

from orchestrator.analysis.averages import best_adapters, compare, over_tasks, rank
from orchestrator.analysis.exclusion import Compared, compared
from orchestrator.analysis.noise import SeedNoise
from orchestrator.analysis.optimism import optimism
from orchestrator.analysis.statistics import (
    Answers,
    Estimate,
    difference_over_images,
    estimate,
    t_interval,
)
from orchestrator.analysis.summary import (
    NOT_STARTED,
    Alternative,
    Gain,
    ProbabilityMetrics,
    RunFacts,
    SeedRow,
    StudySummary,
    Summary,
    Winner,
)
from orchestrator.errors import unknown
from orchestrator.results.selection import rank_configurations, winner
from orchestrator.spec import (
    PROTOCOLS,
    STAGES,
    STATUSES,
    Stage,
    Suite,
    Sweep,
    Task,
    Trial,
    TrialResult,
)

Rows = Sequence[TrialResult]
Probabilities = Callable[[Rows], ProbabilityMetrics | None]
RowsOfStudies = defaultdict[tuple[str, str], list[TrialResult]]


def summarise(
    results: Iterable[TrialResult],
    sweep: Sweep,
    suite: Suite,
    protocol: str = "honest",
    counts: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    probabilities: Probabilities = lambda _: None,
) -> Summary:
    """The summary of `sweep` under one protocol from `results` (ledger rows), complete or not.
    `counts` (task → split → images) are looked at where replicates are on folds; `probabilities`
    gives the metrics of a winner's final trials.

    Rows of other suites, backbones, tasks, adapters or protocols are ignored. Each study states
    what it lacks. Under the protocol `paper` values are test accuracies at the best epoch, the
    winner is the best of the search, and nothing is replicated.

    Raises:
        InvalidInput: an unknown protocol, or a task of the sweep that the suite does not have.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    tasks = tuple(suite.task(name) for name in sweep.tasks)
    rows = own_rows(results, sweep, protocol)
    grouped = by_study(rows)
    studies, tables = [], {}
    for task in tasks:
        for adapter in sweep.adapters:
            own, images = grouped[task.name, adapter], counts.get(task.name, {})
            found = _study(task, adapter, protocol, own, sweep, images, probabilities)
            studies.append(found[0])
            tables[task.name, adapter] = found[1]
    comparisons = compare(studies, tables)
    return Summary(
        sweep=sweep,
        protocol=protocol,
        tasks=tasks,
        suite_tasks=suite.tasks,
        view=suite.view,
        studies=tuple(studies),
        adapters=tuple(over_tasks(name, studies, tables) for name in sweep.adapters),
        best=best_adapters(studies, comparisons),
        comparisons=comparisons,
        ranking=rank(studies),
        run=_facts(rows),
    )


def own_rows(
    results: Iterable[TrialResult], sweep: Sweep, protocol: str = "honest"
) -> list[TrialResult]:
    """Rows of the sweep's suite, backbone, tasks, adapters and one protocol, by (finished, key)."""
    own = (
        row
        for row in results
        if (row.trial.suite, row.trial.backbone) == (sweep.suite, sweep.backbone)
        and row.trial.protocol == protocol
        and row.trial.task in sweep.tasks
        and row.trial.adapter in sweep.adapters
    )
    return sorted(own, key=lambda row: (row.finished, row.key))


def by_study(rows: Iterable[TrialResult]) -> RowsOfStudies:
    """Rows of one protocol by (task, adapter), in the order given; [] for a study without rows."""
    grouped: RowsOfStudies = defaultdict(list)
    for row in rows:
        grouped[row.trial.task, row.trial.adapter].append(row)
    return grouped


def searched_values(trial: Trial, sweep: Sweep) -> dict[str, Any]:
    """The trial's values of the fields that its adapter's space searches, in params or recipe."""
    recipe = asdict(trial.recipe)
    return {
        name: trial.params[name] if name in trial.params else recipe[name]
        for name in sorted(sweep.spaces.get(trial.adapter, {}))
        if name in trial.params or name in recipe
    }


def _study(
    task: Task,
    adapter: str,
    protocol: str,
    rows: Rows,
    sweep: Sweep,
    images: Mapping[str, int],
    probabilities: Probabilities,
) -> tuple[StudySummary, Answers | None]:
    """The summary of a study, and which test images its final seeds had right."""
    best = winner(rows)
    searched = [row for row in rows if row.trial.stage == "search"]
    replicates = _of_seeds(rows, "replicate", best, sweep.seeds)
    finals = _of_seeds(rows, "final", best, sweep.seeds)
    full = {row.trial.config: row for row in searched if row.status == "finished"}
    reference = full.get(best or "")
    ranked = [full[config] for config in rank_configurations(searched)]
    share = _fold_share(sweep, images)
    noise = SeedNoise() if reference is None else SeedNoise.of(reference, rows, share or 1.0)
    others = [] if reference is None else compared(reference, ranked, noise)
    read_test = {row.trial.config for row in rows if row.trial.stage == "final"}
    val_answers = _answers(replicates) if sweep.splits == "fixed" else None
    test_answers = _answers(finals)
    default = sweep.default_of(task.name, adapter, protocol)
    defaults = _of_seeds(rows, "final", default, sweep.seeds)
    summary = StudySummary(
        task=task.name,
        group=task.group,
        adapter=adapter,
        protocol=protocol,
        counts=_counts(rows),
        configurations=len({row.trial.config for row in searched}),
        winner=_winner(rows, best, reference, sweep),
        replicates=tuple(map(_seed_row, replicates)),
        finals=tuple(map(_seed_row, finals)),
        val=estimate([row.value or 0.0 for row in replicates], val_answers, share),
        test=_estimate(finals),
        compared=len(others),
        not_excluded=tuple(_alternative(item, sweep) for item in others if not item.excluded),
        detectable=median(item.detectable for item in others) if others else None,
        optimism=None if reference is None else optimism(reference, ranked, rows, noise),
        default=_estimate(defaults),
        tuning=_gain(finals, defaults),
        probabilities=probabilities(finals),
        other_finals=len(read_test - {best, default}),
        device_seconds=sum(row.seconds for row in rows),
        missing=_missing(rows, best, finals, sweep.seeds),
        diverged=_diverged(rows, finals),
    )
    return summary, test_answers


def _fold_share(sweep: Sweep, images: Mapping[str, int]) -> float | None:
    """The share of train + val that a fold evaluates; None without folds, or if not known."""
    both = images.get("train", 0) + images.get("val", 0)
    return images["val"] / both if sweep.splits == "folds" and both else None


def _estimate(rows: Rows) -> Estimate:
    return estimate([row.value or 0.0 for row in rows], _answers(rows))


def _gain(tuned: Rows, default: Rows) -> Gain | None:
    """The mean test accuracy of the first minus that of the second, over seeds and images."""
    if not tuned or not default or tuned[0].trial.config == default[0].trial.config:
        return None
    one, other = (fmean(row.value or 0.0 for row in rows) for rows in (tuned, default))
    first, second = _answers(tuned), _answers(default)
    if first is None or second is None or first.images != second.images:
        return Gain(one - other, None)
    variance = difference_over_images(first, second)
    return Gain(one - other, t_interval(one - other, variance, bounded=False))


def _of_seeds(rows: Rows, stage: Stage, config: str | None, seeds: int) -> list[TrialResult]:
    """The configuration's rows of a stage for seeds 1…seeds, one per seed (the newest)."""
    found = {
        row.trial.seed: row
        for row in rows
        if row.trial.stage == stage and row.trial.config == config and row.trial.seed <= seeds
    }
    return [found[seed] for seed in sorted(found)]


def _seed_row(row: TrialResult) -> SeedRow:
    return SeedRow(row.trial.seed, row.key, row.status, row.value, _last(row))


def _answers(rows: Rows) -> Answers | None:
    """Which images the seeds had right: none at all if one diverged; None if not known."""
    images = max((len(row.correct) for row in rows), default=0)
    return Answers.of([bytes(images) if row.status == "diverged" else row.correct for row in rows])


def _last(row: TrialResult) -> float | None:
    """Accuracy at the last epoch, if it was measured there."""
    ends = (point for point in row.curve if point.epoch == row.trial.recipe.epochs)
    return next((point.eval_accuracy for point in ends), None)


def _winner(
    rows: Rows, config: str | None, reference: TrialResult | None, sweep: Sweep
) -> Winner | None:
    row = reference or next((row for row in rows if row.trial.config == config), None)
    if config is None or row is None:
        return None
    return Winner(
        config=config,
        params=dict(row.trial.params),
        recipe=asdict(row.trial.recipe),
        searched=searched_values(row.trial, sweep),
        search_value=reference.value if reference else None,
        parameters=row.parameters,
        data=row.trial.data,
        weights=row.trial.weights,
    )


def _alternative(item: Compared, sweep: Sweep) -> Alternative:
    trial, value = item.row.trial, item.row.value or 0.0
    searched = searched_values(trial, sweep)
    return Alternative(trial.config, searched, value, item.difference, item.margin)


def _missing(rows: Rows, config: str | None, finals: Rows, seeds: int) -> str:
    if not rows:
        return NOT_STARTED
    if config is None:
        return _without_winner(rows)
    if finals and all(row.status == "diverged" for row in finals) and len(finals) == seeds:
        return f"all final seeds diverged ({_remedy(rows)})"
    present = {row.trial.seed for row in finals}
    absent = [seed for seed in range(1, seeds + 1) if seed not in present]
    return f"{_seeds(absent)} not run" if absent else ""


def _diverged(rows: Rows, finals: Rows) -> str:
    seeds = [row.trial.seed for row in finals if row.status == "diverged"]
    counts = "counts as 0" if len(seeds) == 1 else "count as 0"
    return f"{_seeds(seeds)} diverged and {counts} ({_remedy(rows)})" if seeds else ""


def _seeds(seeds: Sequence[int]) -> str:
    return f"final seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _without_winner(rows: Rows) -> str:
    """Why a study that has rows has no winner."""
    searched = Counter(row.status for row in rows if row.trial.stage == "search")
    diverged, number = searched["diverged"], searched.total()
    if diverged and diverged == number:
        trials = "the only trial" if number == 1 else f"all {number} trials"
        return f"{trials} of its search diverged; {_remedy(rows)}"
    counts = [f"{searched[what]} {what}" for what in ("diverged", "stopped") if searched[what]]
    return "no search trial has finished" + (f" ({', '.join(counts)})" if counts else "")


def _remedy(rows: Rows) -> str:
    lowest = min(row.trial.recipe.lr for row in rows if row.status == "diverged")
    return (
        f"the loss became NaN or infinite: try a learning rate below {lowest:g} (--set lr=…, or "
        "smaller values in --space) with another --out"
    )


def _counts(rows: Rows) -> dict[str, dict[str, int]]:
    found = Counter((row.trial.stage, row.status) for row in rows)
    return {
        stage: {status: found[stage, status] for status in STATUSES if found[stage, status]}
        for stage in STAGES
    }


def _facts(rows: Rows) -> RunFacts:
    names = sorted({name for row in rows for name in row.versions})
    tasks = sorted({row.trial.task for row in rows})
    return RunFacts(
        trials=len(rows),
        statuses={status: sum(row.status == status for row in rows) for status in STATUSES},
        stages={stage: sum(row.trial.stage == stage for row in rows) for stage in STAGES},
        trial_epochs=sum(row.epochs_run for row in rows),
        device_seconds=sum(row.seconds for row in rows),
        started=min((row.started for row in rows), default=0.0),
        finished=max((row.finished for row in rows), default=0.0),
        hosts=_distinct([row.host for row in rows]),
        devices=_distinct([row.device for row in rows]),
        code=_distinct([row.code for row in rows]),
        versions={name: _distinct([row.versions.get(name) for row in rows]) for name in names},
        weights=_distinct([row.trial.weights for row in rows]),
        data={task: _fingerprints(rows, task) for task in tasks},
        test_reads=sum(row.test_reads for row in rows),
        leaks=sum(
            not row.trial.leaks and row.test_reads > (row.trial.stage == "final") for row in rows
        ),
    )


def _fingerprints(rows: Rows, task: str) -> tuple[str, ...]:
    """The task's distinct data fingerprints, those of earlier stages first."""
    own = [row for row in rows if row.trial.task == task]
    own.sort(key=lambda row: STAGES.index(row.trial.stage))
    return tuple(dict.fromkeys(row.trial.data for row in own))


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))
