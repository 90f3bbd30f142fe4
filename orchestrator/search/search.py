"""The object that both backends drive: ask → Trial | Wait | Done, rung → continue or stop, tell."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from orchestrator.search.prior import Searched
from orchestrator.search.study import StudyProgress, StudyRun
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import Study, Sweep, Trial, TrialResult


@dataclass(frozen=True)
class Wait:
    """No trial can start before one in flight is told or has failed."""


@dataclass(frozen=True)
class Done:
    """Every study is finished."""


class Search:
    """Synchronous and deterministic: its trials depend only on the results that it was told.

    `finished` are the ledger's rows. Adapters come one after another, because trials of one adapter
    share a pool; their studies take turns, and a later adapter's trials fill the gaps. Studies that
    learn from one another (the prior `sweep`) do not take turns: a later one begins when every
    earlier one has a quarter of its configurations in flight. `earlier` has the searches of other
    sweeps, by adapter. Not thread-safe.

    Raises `LedgerError` for a damaged suggestion, `SweepConflict` for one of another sweep,
    `InvalidInput` for an unknown sampler or stopping rule.
    """

    def __init__(
        self,
        sweep: Sweep,
        studies: Sequence[Study],
        suggestions: SuggestionStore,
        finished: Iterable[TrialResult],
        earlier: Mapping[str, Sequence[Searched]] = MappingProxyType({}),
    ) -> None:
        rows: defaultdict[str, list[TrialResult]] = defaultdict(list)
        for row in finished:
            rows[row.trial.study].append(row)
        self._earlier, self._in_order = earlier, "sweep" in sweep.prior
        self._runs: dict[str, StudyRun] = {}
        for study in studies:
            others = partial(self._others, study)
            self._runs[study.name] = StudyRun(sweep, study, suggestions, rows[study.name], others)
        self._groups: defaultdict[str, deque[StudyRun]] = defaultdict(deque)
        for run in self._runs.values():
            self._groups[run.study.adapter].append(run)
        self._owners: dict[str, StudyRun] = {}

    def ask(self) -> Trial | Wait | Done:
        """The next trial to start. Each must be told or reported as failed later.

        Raises `StorageError` if its suggestion cannot be written; the call can be repeated.
        """
        for group in self._groups.values():
            turns = sorted(group, key=lambda run: run.busy) if self._in_order else list(group)
            for run in turns:
                trial = run.next()
                if not self._in_order:
                    group.rotate(-1)  # not before: after an error the same study is asked again
                if trial is not None:
                    self._owners[trial.key] = run
                    return trial
        return Done() if all(run.stage == "done" for run in self._runs.values()) else Wait()

    def _others(self, study: Study) -> list[Searched]:
        """The searches of the study's adapter that it may learn from."""
        if study.protocol != "honest":
            return []
        found = list(self._earlier.get(study.adapter, ()))
        if self._in_order:
            found += [
                run.searched()
                for run in self._runs.values()
                if run.study.adapter == study.adapter
                and run.study.protocol == study.protocol
                and run.study.name != study.name
            ]
        return found

    def rungs(self, trial: Trial) -> tuple[int, ...]:
        """The epochs after which the pool must report the trial and wait; () for most trials."""
        return self._runs[trial.study].rungs(trial)

    def rung(self, key: str, epoch: int, value: float) -> Literal["continue", "stop"]:
        """Whether the trial continues, given its accuracy on val after `epoch` epochs."""
        run = self._owners.get(key)
        return "stop" if run is not None and run.stops(key, epoch, value) else "continue"

    def tell(self, result: TrialResult) -> None:
        """Record a result of the ledger; a repeated one, or one of another sweep, is ignored."""
        run = self._runs.get(result.trial.study)
        if run is not None:
            run.tell(result)

    def failed(self, key: str, message: str) -> None:
        """Record that a trial was lost with its machine: it is repeated, twice at most."""
        run = self._owners.get(key)
        if run is not None:
            run.failed(key, message)

    def close_search(self) -> None:
        """Suggest no new configurations; replicate and choose among the existing ones."""
        for run in self._runs.values():
            run.close_search()

    def progress(self) -> list[StudyProgress]:
        """One entry per study, in the order given."""
        return [run.progress() for run in self._runs.values()]

    def failures(self) -> Mapping[str, str]:
        """Trial key → last message, of trials that were given up."""
        return {key: text for run in self._runs.values() for key, text in run.failures.items()}
