"""The stages of one study: search, then replicate, then final.

search     the sampler's configurations with seed 0, ended early by the stopping rule
replicate  the best of them with seeds 1 … n; skipped if there is only one configuration
final      the winner, and the default configuration if the sweep asks for it, with seeds 1 … n,
           trained on train + val, each reading test once

Under the protocol `paper` every trial trains on train + val and reads test every tenth epoch; as in
the published scripts nothing is stopped early and nothing replicated.

A stage starts when every trial of the previous one has a result or was given up. A trial with a row
in the ledger is never run again: more configurations, seeds or tasks only add trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.results.selection import rank_configurations, winner
from orchestrator.search.configurations import repeat, search_trial
from orchestrator.search.prior import Searched
from orchestrator.search.proposals import Proposals
from orchestrator.search.samplers import planned_configurations
from orchestrator.search.stopping import make_rule
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import STAGES, Stage, Study, Sweep, Trial, TrialResult

MAX_RETRIES = 2
"""How often a trial is repeated after an infrastructure failure."""


@dataclass(frozen=True)
class StudyProgress:
    """Numbers of trials of a study: `done` ran to their last epoch; `total` is the present plan.

    `stage` is empty in a sum over studies. `best` is the highest accuracy in [0, 1] of a search
    trial that ran to its end: on val or, where the protocol `leaks`, on test.
    """

    study: str
    stage: Stage | Literal["done", ""]
    done: int
    running: int
    stopped: int
    diverged: int
    failed: int
    total: int
    best: float | None
    leaks: bool = False


class StudyRun:
    """The state of a study during a sweep. Used by `Search` only."""

    def __init__(
        self,
        sweep: Sweep,
        study: Study,
        suggestions: SuggestionStore,
        finished: Iterable[TrialResult],
        others: Callable[[], Sequence[Searched]] = tuple,
    ) -> None:
        """`others` gives the searches that the study may learn from."""
        self.study = study
        self.stage: Stage | Literal["done"] = "search"
        self.failures: dict[str, str] = {}
        self._leaks = study.protocol != "honest"
        self._default = sweep.default_of(study.task, study.adapter, study.protocol)
        self._sweep, self._rule = sweep, make_rule("none" if self._leaks else sweep.stopping)
        self._wanted = planned_configurations(sweep.sampler, study.space, sweep.trials)
        self._rows: dict[str, TrialResult] = {}
        self._in_flight: set[str] = set()
        self._retries: Counter[str] = Counter()
        for row in finished:
            self._accept(row)
        self._proposals = Proposals(sweep, study, suggestions, self._rows, others)
        self._plans: dict[Stage, dict[str, Trial]] = {
            "search": dict(list(self._proposals.trials.items())[: self._wanted])
        }
        self._advance()

    @property
    def busy(self) -> bool:
        """Whether a quarter of its configurations are in flight: more would not learn from them."""
        return len(self._in_flight) >= max(2, self._wanted // 4)

    def searched(self) -> Searched:
        """What other studies may learn from its search."""
        return Searched.of(self.study.name, self._rows.values())

    def next(self) -> Trial | None:
        """A trial to run now; None while the stage waits for trials in flight, or at the end."""
        if self.stage == "done":
            return None
        plan = self._plans[self.stage]
        for key in plan:
            if self._is_open(key):
                return self._start(key)
        if self.stage != "search" or len(plan) >= self._wanted:
            return None
        trial = self._proposals.next(self._rows, self.failures)
        if trial is None:
            self._close()
            return self.next()
        plan[trial.key] = trial
        return self._start(trial.key)

    def tell(self, row: TrialResult) -> None:
        """Record a result; one that is known already changes nothing."""
        if not self._accept(row):
            self.failed(row.key, f"stopped early by the rule '{row.stopping}'")
            return
        self._in_flight.discard(row.key)
        self.failures.pop(row.key, None)
        self._advance()

    def failed(self, key: str, message: str) -> None:
        """Record the loss of a trial in flight: it is repeated at most `MAX_RETRIES` times."""
        if key not in self._in_flight:
            return
        self._in_flight.discard(key)
        self._retries[key] += 1
        if self._retries[key] > MAX_RETRIES:
            self.failures[key] = message
            self._advance()

    def rungs(self, trial: Trial) -> tuple[int, ...]:
        """The epochs at which the trial must report."""
        return self._rule.rungs(trial.recipe) if trial.stage == "search" else ()

    def stops(self, key: str, epoch: int, value: float) -> bool:
        """Whether a trial is stopped at this rung; False for all but search trials."""
        trial = self._proposals.trials.get(key)
        if trial is None or epoch not in self.rungs(trial):
            return False
        return self._rule.stops(key, epoch, value)

    def close_search(self) -> None:
        """Suggest no further configuration; continue with those that are finished or in flight."""
        if self.stage == "search":
            self._close()

    def progress(self) -> StudyProgress:
        """Counts over the plans of the stages started so far."""
        keys = {key for plan in self._plans.values() for key in plan}
        states = Counter(self._rows[key].status for key in keys if key in self._rows)
        searched = [row for row in self._rows.values() if row.trial.stage == "search"]
        best = [row.value for row in searched if row.status == "finished"]
        return StudyProgress(
            study=self.study.name,
            stage=self.stage,
            done=states["finished"],
            running=len(self._in_flight),
            stopped=states["stopped"],
            diverged=states["diverged"],
            failed=len(self.failures),
            total=self._total(),
            best=max((value for value in best if value is not None), default=None),
            leaks=self._leaks,
        )

    def _accept(self, row: TrialResult) -> bool:
        """Keep a row unless another stopping rule ended it early; whether it is kept."""
        if row.status == "stopped" and row.stopping != self._sweep.stopping:
            return False
        if row.key not in self._rows:
            self._rows[row.key] = row
            epochs = self.rungs(row.trial)
            for point in row.curve:
                if point.epoch in epochs and point.eval_accuracy is not None:
                    self._rule.stops(row.key, point.epoch, point.eval_accuracy)
        return True

    def _close(self) -> None:
        plan = self._plans["search"]
        self._plans["search"] = {key: plan[key] for key in plan if not self._is_open(key)}
        self._wanted = len(self._plans["search"])
        self._advance()

    def _is_open(self, key: str) -> bool:
        return not (key in self._rows or key in self._in_flight or key in self.failures)

    def _start(self, key: str) -> Trial:
        assert self.stage != "done"
        self._in_flight.add(key)
        return self._plans[self.stage][key]

    def _advance(self) -> None:
        """Start the next stage while the present one is finished."""
        while self.stage != "done" and self._is_settled(self.stage):
            following = STAGES[STAGES.index(self.stage) + 1 :]
            if not following:
                self.stage = "done"
                return
            self.stage = following[0]
            self._plans[self.stage] = self._repeats(self.stage)

    def _is_settled(self, stage: Stage) -> bool:
        plan = self._plans[stage]
        settled = all(key in self._rows or key in self.failures for key in plan)
        return settled and (stage != "search" or len(plan) >= self._wanted)

    def _repeats(self, stage: Stage) -> dict[str, Trial]:
        """The trials of replicate or final by key: each chosen configuration with every seed."""
        rows = list(self._rows.values())
        default = search_trial(self.study, {})
        by_config = {default.config: default, **{row.trial.config: row.trial for row in rows}}
        trials = [
            repeat(self.study, by_config[config], stage, seed)
            for config in self._chosen(stage, rows)
            for seed in range(1, self._sweep.seeds + 1)
        ]
        return {trial.key: trial for trial in trials}

    def _chosen(self, stage: Stage, rows: Sequence[TrialResult]) -> list[str]:
        if stage == "replicate":
            return rank_configurations(rows)[: self._replicated()]
        found = (winner(rows), self._default)
        return list(dict.fromkeys(config for config in found if config))

    def _replicated(self) -> int:
        if self._leaks or self._wanted < 2:
            return 0
        return min(self._sweep.replicate, self._wanted)

    def _total(self) -> int:
        expected: dict[Stage, int] = {
            "search": self._wanted,
            "replicate": self._replicated() * self._sweep.seeds,
            "final": self._sweep.seeds * (2 if self._default else 1),
        }
        return sum(
            len(self._plans[stage]) if stage in self._plans and stage != "search" else count
            for stage, count in expected.items()
        )
