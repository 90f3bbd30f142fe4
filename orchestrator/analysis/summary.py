"""The summary of a sweep as plain records: made by `summarise`, read by report and registry.

Accuracies are in [0, 1]; `dataclasses.asdict` of any record here is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.analysis.statistics import Estimate, Interval
from orchestrator.spec import Sweep, Task, study_name

NOT_STARTED = "not started"
"""What a study without a row lacks."""
ALPHA = 0.05
"""Level of every test, for all of its comparisons together."""


@dataclass(frozen=True)
class SeedRow:
    """One replicate or final trial of a winner; `value` is None if it diverged.

    `last` is the accuracy at the last epoch (None if the curve has no evaluation there). It differs
    from `value` under the protocol `paper` only, where `value` is that of the best epoch.
    """

    seed: int
    key: str
    status: str
    value: float | None
    last: float | None


@dataclass(frozen=True)
class Alternative:
    """A configuration that the comparison with the winner does not exclude.

    `difference` is the winner's accuracy minus this one's, on the same images and seed of the
    search; it would have to exceed `margin` for the configuration to be excluded.
    """

    config: str
    searched: Mapping[str, Any]
    value: float
    difference: float
    margin: float


@dataclass(frozen=True)
class Optimism:
    """The winner's accuracy without the advantage of having been chosen, with a 95 % interval.

    `search` and `replicated` are how much higher its search trial and the mean of its replicates
    are (None if nothing was replicated). About other seeds and images; that the images of the split
    are easier or harder than others as a whole is part of neither.
    """

    corrected: float
    interval: Interval
    search: float
    replicated: float | None


@dataclass(frozen=True)
class Gain:
    """A difference of test accuracies with its 95 % interval, None where it is not known."""

    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class ProbabilityMetrics:
    """What the winner's final seeds' class probabilities on test say (`orchestrator.analysis.
    metrics`).

    `ensemble` is the accuracy of their mean over seeds, `gain` that minus the mean of the seeds'
    accuracies: both None of one seed, with intervals over images, for these trained models.
    `mean_class` (accuracy) and `calibration` (expected error) are over seeds.
    """

    ensemble: Estimate | None
    gain: Gain | None
    mean_class: Estimate
    calibration: Estimate


@dataclass(frozen=True)
class Winner:
    """The configuration that selection on val chose (on test under the protocol `paper`).

    `searched` holds the searched fields only.
    """

    config: str
    params: Mapping[str, Any]
    recipe: Mapping[str, Any]
    searched: Mapping[str, Any]
    search_value: float | None
    parameters: int
    data: str
    """Fingerprint of the data that the search read: train and val, with test under `paper`."""
    weights: str


@dataclass(frozen=True)
class StudySummary:
    """One (task, adapter): its winner, the evidence for it, and what is missing.

    `val` is over the winner's replicate seeds, `test` over its final seeds; a seed that diverged
    counts as accuracy 0, as in selection. `counts` is stage → status → number of trials. `compared`
    configurations were compared with the winner; the chance that one which is truly as good is
    missing from `not_excluded` is 5 % for all of them together, and one that is worse by
    `detectable` is excluded in four of five cases. `optimism` says how much of the winner's
    accuracy is due to its having been chosen. `default` is the test accuracy of the adapter's
    default configuration (empty where that was not trained), `tuning` that of the winner minus it,
    over seeds and images (None where the default is the winner). `probabilities` is None where the
    logits are not known. `other_finals` counts configurations that read test before an extended
    search found another winner; they are reported nowhere else. Under the protocol `paper` nothing
    is replicated, and `test` is of the best epoch.
    """

    task: str
    group: str
    adapter: str
    protocol: str
    counts: Mapping[str, Mapping[str, int]]
    configurations: int
    winner: Winner | None
    replicates: tuple[SeedRow, ...]
    finals: tuple[SeedRow, ...]
    val: Estimate
    test: Estimate
    compared: int
    not_excluded: tuple[Alternative, ...]
    detectable: float | None
    optimism: Optimism | None
    default: Estimate
    tuning: Gain | None
    probabilities: ProbabilityMetrics | None
    other_finals: int
    device_seconds: float
    missing: str
    """Why `test` is not over all planned seeds; empty when it is."""
    diverged: str
    """Which final seeds diverged and count as 0, and what to do about it; empty if none."""

    @property
    def name(self) -> str:
        """The name in its trials: `orchestrator.spec.study_name`."""
        return study_name(self.task, self.adapter, self.protocol)


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter over the sweep's tasks.

    Every `Estimate` is of a mean over tasks (of a group, or all) or over group means, on these
    tasks. One that needs an incomplete task is empty; `missing` names those tasks.
    `parameters` is the mean over tasks of the winners' trainable scalars without the head.
    `default` is of the default configurations and `ensemble` the mean of the seed ensembles'
    accuracies, where all tasks have one.
    """

    adapter: str
    groups: Mapping[str, Estimate]
    mean_tasks: Estimate
    default: Estimate
    ensemble: float | None
    mean_groups: Estimate
    iqm: float | None
    iqm_interval: Interval | None
    parameters: float | None
    device_seconds: float
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The adapter with the highest mean test accuracy on a task.

    `untold` names the adapters that the test on this task does not tell from it (or that could not
    be tested).
    """

    task: str
    adapter: str
    untold: tuple[str, ...]


Question = Literal["task", "these tasks", "tasks like these"]
"""What a comparison is about. `task`: one task, other seeds and images. `these tasks`: the mean of
the sweep's tasks, other seeds and images. `tasks like these`: the mean over other tasks, of which
the sweep's are a random sample."""


@dataclass(frozen=True)
class Comparison:
    """Test accuracy of `adapter` minus that of `other`.

    `interval` has 95 % for this comparison alone; `p` is two-sided, `adjusted` after Holm over all
    pairs of adapters of the same question (and task). None where the question cannot be answered;
    `undefined` then says why. `effect`, for `tasks like these`, is the mean difference over its
    standard deviation between tasks; `won` and `lost` count the tasks on which the mean of
    `adapter` is higher and lower.
    """

    adapter: str
    other: str
    task: str | None
    question: Question
    difference: float
    interval: Interval | None = None
    p: float | None = None
    adjusted: float | None = None
    effect: float | None = None
    undefined: str = ""
    won: int | None = None
    lost: int | None = None

    @property
    def told(self) -> bool:
        """Whether the two are told apart at 5 %, corrected."""
        return self.adjusted is not None and self.adjusted < ALPHA


@dataclass(frozen=True)
class Ranking:
    """Mean ranks (1 is best, ties share) of adapters over the `tasks` tasks that all completed.

    `win_rates`: of all tasks and other adapters, the share that an adapter's mean test accuracy
    beats, ties counting half; that is (k - mean rank) / (k - 1) of k adapters.

    `p` is Friedman's, that all rank alike; two mean ranks that differ by less than `critical`
    (Nemenyi, 5 % for all pairs together; Demšar, JMLR 7, 2006) are not told apart. The question is
    `tasks like these`.
    """

    ranks: Mapping[str, float]
    win_rates: Mapping[str, float]
    tasks: int
    p: float
    critical: float


@dataclass(frozen=True)
class RunFacts:
    """Provenance of the numbers, from the rows.

    `started` and `finished` are Unix times (seconds) of the first and last trial, 0 without rows;
    `data` maps each task to the fingerprints of its rows, those of the search first. `leaks` counts
    honest rows that broke their protocol: test read outside the final stage, or more than once.
    Rows of the protocol `paper`, which all leak by design, are not counted.
    """

    trials: int
    statuses: Mapping[str, int]
    stages: Mapping[str, int]
    trial_epochs: int
    device_seconds: float
    started: float
    finished: float
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    code: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]
    weights: tuple[str, ...]
    data: Mapping[str, tuple[str, ...]]
    test_reads: int
    leaks: int


@dataclass(frozen=True)
class Summary:
    """All numbers of the report, under one protocol."""

    sweep: Sweep
    protocol: str
    tasks: tuple[Task, ...]
    suite_tasks: tuple[Task, ...]
    """The whole suite's tasks; the sweep may have run fewer."""
    view: str
    """The part of an image that evaluation uses, as in `Suite`."""
    studies: tuple[StudySummary, ...]
    adapters: tuple[AdapterSummary, ...]
    best: tuple[Best, ...]
    comparisons: tuple[Comparison, ...]
    ranking: Ranking | None
    run: RunFacts

    @property
    def leaks(self) -> bool:
        """Whether configurations and epochs were chosen on the test split."""
        return self.protocol != "honest"

    @property
    def chosen_on(self) -> str:
        """The split that configurations were compared on."""
        return "test" if self.leaks else "val"

    @property
    def score(self) -> str:
        """The quantity that configurations were compared by."""
        return "test accuracy, best epoch" if self.leaks else "val accuracy"

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of the sweep's tasks, in the suite's order."""
        return tuple(dict.fromkeys(task.group for task in self.tasks))

    @property
    def complete(self) -> bool:
        """Whether every study has all its final seeds."""
        return not any(study.missing for study in self.studies)

    def study(self, task: str, adapter: str) -> StudySummary:
        """The study of that task and adapter; KeyError if the sweep has none."""
        for study in self.studies:
            if (study.task, study.adapter) == (task, adapter):
                return study
        raise KeyError(f"{task}/{adapter}")
