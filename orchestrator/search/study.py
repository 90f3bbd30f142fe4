"""The stages of one study: search, then replicate, then final.

search     the sampler's configurations, seed 0, ended early where the stopping rule says so
replicate  the best of them again with seeds 1 … n; skipped where there is just one configuration
final      the winner with seeds 1 … n, trained on train + val, reading test once each

Under the protocol `paper` every trial trains on train + val and reads test every tenth epoch; as in
the published scripts nothing is ended early and nothing replicated.

A stage begins when every trial of the one before has a result or has failed for good. What the
ledger holds already is never asked again, so more configurations, seeds or tasks merely extend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.results.selection import rank_configurations, winner
from orchestrator.search.configurations import again
from orchestrator.search.proposals import Asked
from orchestrator.search.samplers import planned_configurations
from orchestrator.search.stopping import make_rule
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import STAGES, Stage, Study, Sweep, Trial, TrialResult

MAX_RETRIES = 2
"""How often a trial is asked again after an infrastructure failure."""


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is. `done` are full-length results; `total` is the best known plan.

    `stage` is empty in a sum over studies. `best` is the highest value of a configuration searched
    to the end, in [0, 1]: on val or, where the protocol `leaks`, on test.
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
    """The state of one study while it is swept. Called by `Search` only."""

    def __init__(
        self, sweep: Sweep, study: Study, asks: SuggestionStore, finished: Iterable[TrialResult]
    ) -> None:
        self.study = study
        self.stage: Stage | Literal["done"] = "search"
        self.failures: dict[str, str] = {}
        self._leaks = study.protocol != "honest"
        self._sweep, self._rule = sweep, make_rule("none" if self._leaks else sweep.stopping)
        self._wanted = planned_configurations(sweep.sampler, study.space, sweep.trials)
        self._rows: dict[str, TrialResult] = {}
        self._in_flight: set[str] = set()
        self._retries: Counter[str] = Counter()
        for row in finished:
            self._accept(row)
        self._asked = Asked(sweep, study, asks, self._rows)
        self._plans: dict[Stage, dict[str, Trial]] = {
            "search": dict(list(self._asked.trials.items())[: self._wanted])
        }
        self._advance()

    def next(self) -> Trial | None:
        """A trial to run now, or None while the stage is waiting or everything is done."""
        if self.stage == "done":
            return None
        plan = self._plans[self.stage]
        for key in plan:
            if self._is_open(key):
                return self._hand_out(key)
        if self.stage != "search" or len(plan) >= self._wanted:
            return None
        trial = self._asked.new(self._rows, self.failures)
        if trial is None:
            self._close()
            return self.next()
        plan[trial.key] = trial
        return self._hand_out(trial.key)

    def tell(self, row: TrialResult) -> None:
        """Take in a result; one that is known already changes nothing."""
        if not self._accept(row):
            self.failed(row.key, f"ended early by the rule '{row.stopping}'")
            return
        self._in_flight.discard(row.key)
        self.failures.pop(row.key, None)
        self._advance()

    def failed(self, key: str, message: str) -> None:
        """A trial in flight was lost: it is asked again, or given up after `MAX_RETRIES`."""
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
        """True if a search trial ends at this rung; False for any other."""
        trial = self._asked.trials.get(key)
        if trial is None or epoch not in self.rungs(trial):
            return False
        return self._rule.stops(key, epoch, value)

    def close_search(self) -> None:
        """Ask no configuration any more; go on with those that are finished or in flight."""
        if self.stage == "search":
            self._close()

    def progress(self) -> StudyProgress:
        """Counts over the plans of the stages begun so far."""
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
        """Keep a row unless another stopping rule cut it short."""
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

    def _hand_out(self, key: str) -> Trial:
        assert self.stage != "done"
        self._in_flight.add(key)
        return self._plans[self.stage][key]

    def _advance(self) -> None:
        """Begin the next stage, and the one after it, while there is nothing left to do."""
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
        """The plan of replicate or final, by key: each chosen configuration with every seed."""
        rows = list(self._rows.values())
        by_config = {row.trial.config: row.trial for row in rows}
        trials = [
            again(self.study, by_config[config], stage, seed)
            for config in self._chosen(stage, rows)
            for seed in range(1, self._sweep.seeds + 1)
        ]
        return {trial.key: trial for trial in trials}

    def _chosen(self, stage: Stage, rows: Sequence[TrialResult]) -> list[str]:
        if stage == "replicate":
            return rank_configurations(rows)[: self._replicated()]
        best = winner(rows)
        return [] if best is None else [best]

    def _replicated(self) -> int:
        if self._leaks or self._wanted < 2:
            return 0
        return min(self._sweep.replicate, self._wanted)

    def _total(self) -> int:
        expected: dict[Stage, int] = {
            "search": self._wanted,
            "replicate": self._replicated() * self._sweep.seeds,
            "final": self._sweep.seeds,
        }
        return sum(
            len(self._plans[stage]) if stage in self._plans and stage != "search" else count
            for stage, count in expected.items()
        )
