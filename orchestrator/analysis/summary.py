"""The summary of a sweep as plain records: made by `summarise`, read by report and registry.

Accuracies are in [0, 1]; `dataclasses.asdict` of any record here is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.analysis.statistics import Estimate, Interval
from orchestrator.spec import Sweep, Task, study_name

NOT_STARTED = "not started"
"""What a study without a row lacks."""


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
    """A configuration that McNemar's test does not distinguish from the winner (p >= 0.05).

    `only_winner` and `only_other` count the images (of val; of test under the protocol `paper`)
    that only one of the two classified correctly.
    """

    config: str
    searched: Mapping[str, Any]
    value: float
    only_winner: int
    only_other: int
    p: float


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

    `val` is over the winner's replicate seeds, `test` over its final seeds. `counts` is stage →
    status → number of trials. `compared` configurations were tested against the winner (paired);
    `indistinguishable` are those without a significant difference. `other_finals` counts
    configurations that read test before an extended search found another winner; they are reported
    nowhere else. Under the protocol `paper` nothing is replicated, and `test` is of the best epoch.
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
    indistinguishable: tuple[Alternative, ...]
    other_finals: int
    device_seconds: float
    missing: str
    """Why `test` is not over all planned seeds; empty when it is."""

    @property
    def name(self) -> str:
        """The name in its trials: `orchestrator.spec.study_name`."""
        return study_name(self.task, self.adapter, self.protocol)


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter over the sweep's tasks.

    Every `Estimate` is over seeds, of each seed's mean over tasks (of a group, or all) or over
    group means. One that needs an incomplete task is empty; `missing` names those tasks.
    `parameters` is the mean over tasks of the winners' trainable scalars without the head.
    """

    adapter: str
    groups: Mapping[str, Estimate]
    mean_tasks: Estimate
    mean_groups: Estimate
    iqm: float | None
    iqm_interval: Interval | None
    parameters: float | None
    device_seconds: float
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Best:
    """The adapter with the highest mean test accuracy on a task.

    `overlapping` names the adapters whose 95 % interval overlaps the best one's, or where one of
    the two is undefined: these seeds do not distinguish them.
    """

    task: str
    adapter: str
    overlapping: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """An adapter minus `linear` on one task, or for the mean of tasks (`task` is None).

    `disjoint`: the two 95 % intervals share no point; None if one is undefined.
    """

    adapter: str
    task: str | None
    difference: float
    disjoint: bool | None


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
