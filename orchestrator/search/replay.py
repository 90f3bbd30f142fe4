"""Replay of searches on recorded trials: how soon a policy finds a good configuration.

The search object of a sweep is driven as by a backend, with recorded accuracies in place of
training. Repetition r gives stage seed s the recorded seed number (r + s) modulo their count.

Regret, in [0, 1]: on val, of the configuration with the highest val accuracy that was reached in
full, against the best of the space, both with the search's seed; on test, of the same configuration
against the best of the space, both means over all seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.results.selection import winner
from orchestrator.search.configurations import fields_of
from orchestrator.search.prior import Searched
from orchestrator.search.record import Point, RecordedStudy, RecordedTrial
from orchestrator.search.search import Done, Search
from orchestrator.search.suggestions import Suggestion, SuggestionStore
from orchestrator.spec import DataIdentity, Recipe, Study, Sweep, Trial, TrialResult
from search_spaces import grid_size


@dataclass(frozen=True)
class Policy:
    """What is replayed: the options of a sweep that decide which trials it makes.

    `prior`: `sweep`, as for a sweep of the record's studies; `record`: every study knows the whole
    grids of its adapter's other tasks, as if they had been searched earlier.
    """

    sampler: str
    stopping: str = "none"
    prior: str = "none"
    seeds: int = 3
    replicate: int = 2

    @property
    def name(self) -> str:
        """The parts that are not `none`, joined by +."""
        return "+".join(p for p in (self.sampler, self.stopping, self.prior) if p != "none")


PRIORS = ("none", "sweep", "record")


@dataclass(frozen=True)
class Step:
    """After a search trial: regrets of the present choice, and trial-epochs so far."""

    val: float
    test: float | None
    epochs: int


@dataclass(frozen=True)
class Replayed:
    """A study of one repetition: its `steps`, and the regret on test and the trial-epochs of the
    winner after replication.
    """

    study: str
    size: int
    steps: tuple[Step, ...]
    winner: float | None
    epochs: int

    def at(self, share: float) -> Step:
        """The step at a share of the space's points (at least one)."""
        return self.steps[min(max(round(share * self.size), 1), len(self.steps)) - 1]


def replay(
    studies: Sequence[RecordedStudy], policy: Policy, repetition: int, budget: float = 1.0
) -> list[Replayed]:
    """Search all `studies` (one per task and adapter) as one sweep, up to a share of each space."""
    if len({study.name for study in studies}) < len(studies):
        twice = [name for name, n in Counter(one.name for one in studies).items() if n > 1]
        raise InvalidInput(f"several records have {', '.join(twice)}; replay them one by one.")
    if policy.prior != "record":
        return _replayed(studies, policy, repetition, budget)
    return [
        one
        for study in studies
        for one in _replayed([study], policy, repetition, budget, _others(study, studies))
    ]


def _others(study: RecordedStudy, studies: Sequence[RecordedStudy]) -> list[Searched]:
    """The whole grids of the adapter's other tasks, by mean val accuracy over the seeds."""
    return [
        Searched(
            other.name,
            tuple(
                (dict(zip(other.space, point, strict=True)), fmean(o.val[-1] for o in by.values()))
                for point, by in other.outcomes.items()
            ),
        )
        for other in studies
        if other.adapter == study.adapter and other.task != study.task
    ]


def _replayed(
    studies: Sequence[RecordedStudy],
    policy: Policy,
    repetition: int,
    budget: float,
    earlier: Sequence[Searched] = (),
) -> list[Replayed]:
    by_name = {study.name: study for study in studies}
    size = max(grid_size(study.space) or 1 for study in studies)
    sweep = _sweep(studies, policy, repetition, max(1, round(budget * size)))
    known = {studies[0].adapter: earlier}
    search = Search(sweep, [_study(one) for one in studies], _Unwritten(), (), known)
    logs = {study.name: _Log(study, repetition) for study in studies}
    while not isinstance(trial := search.ask(), Done):
        assert isinstance(trial, Trial), "nothing is in flight"
        row = _trained(search, trial, by_name[trial.study], repetition, policy.stopping)
        logs[trial.study].add(row)
        search.tell(row)
    return [log.replayed() for log in logs.values()]


class _Log:
    """What a study has seen in a replay."""

    def __init__(self, study: RecordedStudy, repetition: int) -> None:
        self.study, self.rows = study, list[TrialResult]()
        self.size = grid_size(study.space) or 1
        self._steps: list[Step] = []
        self._seed = study.seeds[repetition % len(study.seeds)]
        self._val = {point: by[self._seed].val[-1] for point, by in study.outcomes.items()}
        self._test = {point: _mean_test(by) for point, by in study.outcomes.items()}
        self._best: Point | None = None

    def add(self, row: TrialResult) -> None:
        """A result; one of the search is a step."""
        self.rows.append(row)
        if row.trial.stage != "search":
            return
        point = _point(self.study, row.trial)
        if row.status == "finished" and (
            self._best is None or self._val[point] > self._val[self._best]
        ):
            self._best = point
        self._steps.append(Step(self._regret(self._val), self._regret(self._test), self._epochs))

    def replayed(self) -> Replayed:
        """What was seen, with the winner as the last choice."""
        config = winner(self.rows)
        chosen = [row.trial for row in self.rows if row.trial.config == config]
        if chosen:
            self._best = _point(self.study, chosen[0])
        return Replayed(
            self.study.name, self.size, tuple(self._steps), self._regret(self._test), self._epochs
        )

    @property
    def _epochs(self) -> int:
        return sum(row.epochs_run for row in self.rows if row.trial.stage != "final")

    def _regret(self, values: Mapping[Point, float | None]) -> Any:
        """Against the best; of nothing found yet, that of the worst. None if not measured."""
        known = [value for value in values.values() if value is not None]
        if len(known) < len(values):
            return None
        own = values[self._best] if self._best is not None else min(known)
        return max(known) - (own or 0.0)


def _mean_test(by_seed: Mapping[int, RecordedTrial]) -> float | None:
    tests = [one.test for one in by_seed.values()]
    known = [test for test in tests if test is not None]
    return fmean(known) if known and len(known) == len(tests) else None


def _point(study: RecordedStudy, trial: Trial) -> Point:
    known = fields_of(trial)
    return tuple(known[name] for name in study.space)


def _trained(
    search: Search, trial: Trial, study: RecordedStudy, repetition: int, stopping: str
) -> TrialResult:
    """The row of a trial that reports at its rungs, as it was recorded."""
    seed = study.seeds[(repetition + trial.seed) % len(study.seeds)]
    outcome = study.outcomes[_point(study, trial)][seed]
    for epoch in search.rungs(trial):
        if search.rung(trial.key, epoch, outcome.val[epoch - 1]) == "stop":
            return replace(_row(trial, outcome, epoch), status="stopped", stopping=stopping)
    return _row(trial, outcome, study.epochs)


def _row(trial: Trial, outcome: RecordedTrial, epochs: int) -> TrialResult:
    return TrialResult(
        trial=trial,
        status="finished",
        value=outcome.val[epochs - 1],
        eval_loss=None,
        epochs_run=epochs,
        curve=(),
        correct=b"",
        parameters=outcome.parameters,
    )


def _sweep(studies: Sequence[RecordedStudy], policy: Policy, repetition: int, trials: int) -> Sweep:
    return Sweep(
        suite="record",
        backbone="record",
        tasks=tuple(dict.fromkeys(study.task for study in studies)),
        adapters=tuple(dict.fromkeys(study.adapter for study in studies)),
        sampler=policy.sampler,
        stopping=policy.stopping,
        trials=trials,
        seeds=policy.seeds,
        replicate=policy.replicate,
        recipe=_recipe(studies[0]),
        spaces={},
        seed=repetition,
        prior=("sweep",) if policy.prior == "sweep" else (),
    )


def _recipe(study: RecordedStudy) -> Recipe:
    """A tenth of the epochs warms up, as in the recipes of the suites."""
    warmup = min(round(study.epochs / 10), study.epochs - 1)
    return Recipe(epochs=study.epochs, warmup_epochs=warmup)


def _study(study: RecordedStudy) -> Study:
    return Study(
        suite="record",
        task=study.task,
        backbone="record",
        adapter=study.adapter,
        params={},
        recipe=_recipe(study),
        space=study.space,
        data=DataIdentity("search", "test"),
        weights="record",
    )


class _Unwritten(SuggestionStore):
    """Suggestions that nobody resumes."""

    def __init__(self) -> None:
        super().__init__(Path())

    def load(self, study: str) -> list[Suggestion]:
        """None."""
        return []

    def record(self, study: str, suggestion: Suggestion) -> None:
        """Forget it."""
