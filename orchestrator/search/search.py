"""The one object that both backends drive: ask → Trial | Wait | Done; rung → go on?; tell."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.search.study import StudyProgress, StudyRun
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.spec import Study, Sweep, Trial, TrialResult


@dataclass(frozen=True)
class Wait:
    """Nothing to start before a trial in flight has been told or has failed."""


@dataclass(frozen=True)
class Done:
    """Every study is finished."""


class Search:
    """Plain, synchronous and deterministic: what it asks depends only on what it was told.

    `finished` are the ledger's rows. Studies of one adapter come one after another, since their
    trials share a pool, and take turns over the tasks; a later adapter's trials fill the gaps.
    Not thread-safe. `LedgerError` for a damaged suggestion, `SweepConflict` for one of another
    sweep, `InvalidInput` for an unknown sampler or stopping rule.
    """

    def __init__(
        self,
        sweep: Sweep,
        studies: Sequence[Study],
        asks: SuggestionStore,
        finished: Iterable[TrialResult],
    ) -> None:
        rows: defaultdict[str, list[TrialResult]] = defaultdict(list)
        for row in finished:
            rows[row.trial.study].append(row)
        self._runs = {
            study.name: StudyRun(sweep, study, asks, rows[study.name]) for study in studies
        }
        self._groups: defaultdict[str, deque[StudyRun]] = defaultdict(deque)
        for run in self._runs.values():
            self._groups[run.study.adapter].append(run)
        self._owners: dict[str, StudyRun] = {}

    def ask(self) -> Trial | Wait | Done:
        """The next trial to start. Every one asked must be told or reported as failed.

        `StorageError` if its suggestion cannot be written: asking again is as if nothing had been.
        """
        for group in self._groups.values():
            for _ in range(len(group)):
                run = group[0]
                trial = run.next()
                group.rotate(-1)  # only now: a study that failed to answer is asked again
                if trial is not None:
                    self._owners[trial.key] = run
                    return trial
        return Done() if all(run.stage == "done" for run in self._runs.values()) else Wait()

    def rungs(self, trial: Trial) -> tuple[int, ...]:
        """The epochs after which the pool must report the trial and wait; () for most trials."""
        return self._runs[trial.study].rungs(trial)

    def rung(self, key: str, epoch: int, value: float) -> Literal["continue", "stop"]:
        """Whether the trial goes on, given its accuracy on val after `epoch` epochs."""
        run = self._owners.get(key)
        return "stop" if run is not None and run.stops(key, epoch, value) else "continue"

    def tell(self, result: TrialResult) -> None:
        """A result that is in the ledger. Telling it twice, or a stranger's, does no harm."""
        run = self._runs.get(result.trial.study)
        if run is not None:
            run.tell(result)

    def failed(self, key: str, message: str) -> None:
        """A trial was lost to a machine, not to itself: it is asked again, twice at most."""
        run = self._owners.get(key)
        if run is not None:
            run.failed(key, message)

    def close_search(self) -> None:
        """The time budget is spent: no new configurations, replicate and choose among those had."""
        for run in self._runs.values():
            run.close_search()

    def progress(self) -> list[StudyProgress]:
        """One entry per study, in the order given."""
        return [run.progress() for run in self._runs.values()]

    def failures(self) -> Mapping[str, str]:
        """Trials given up, by key, with the last message."""
        return {key: text for run in self._runs.values() for key, text in run.failures.items()}
