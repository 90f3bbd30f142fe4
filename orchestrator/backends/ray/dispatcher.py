"""Where every trial of a sweep on Ray is: one dictionary in the command's process.

A trial goes through these stations:

 1. `Dispatcher.propose` asks the search for a trial; its suggestion is on disk  (PROPOSED)
 2. `TuneSearcher` hands it to Tune, which waits for a free share of a device
 3. Tune gives it a `PoolTrainable`, a light process on that device's node       (RUNNING)
 4. `PoolManager.enter` says which pool it goes to
 5. `PoolService.train` adds it to the pool, and the trainable waits
 6. the pool trains it to its next rung, or to its end and into the ledger
 7. its report comes back through the trainable and Tune
 8. at a rung, `Dispatcher.decide` asks the study's rule: it continues at 6,     (AT_RUNG)
    or its pool ends it with a row in the ledger
 9. `Dispatcher.report` tells the search its result                              (ENDED)
10. Tune is told; `Dispatcher.close_trial` forgets it, and its share is free

Tune's Searcher, Scheduler and Callback (`tuner.py`) have no state of their own and only call this
object. Which pool has which trial is known to `PoolManager` alone. Nothing here needs Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from orchestrator.backends.pool_config import PoolConfig
from orchestrator.backends.pool_service import Report
from orchestrator.errors import BackendError, StorageError
from orchestrator.results.ledger import Ledger
from orchestrator.search.search import Done, Search, Wait
from orchestrator.spec import Trial
from orchestrator.storage.retry import RetryPolicy

if TYPE_CHECKING:
    from orchestrator.backends.ray.pool_manager import Pools


class State(Enum):
    """Of a trial that Tune has, see the stations above."""

    PROPOSED = "proposed"
    RUNNING = "running"
    AT_RUNG = "at rung"
    ENDED = "ended"


@dataclass
class Dispatched:
    """A trial that Tune has, by its key."""

    key: str
    state: State = State.PROPOSED


class Dispatcher:
    """Drives `search` for Tune, with trials in `pools`; the other arguments are those of `run`.

    Tune would end the sweep with a traceback if one of these methods raised. So the first error is
    kept, the pools are closed, every trial ends, and `raise_error` raises it when Tune is done.
    """

    def __init__(
        self,
        search: Search,
        config: PoolConfig,
        pools: Pools,
        observe: Callable[[], None] = lambda: None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.trials: dict[str, Dispatched] = {}
        """The trials that Tune has, by Tune's ids."""
        self.pools, self._search, self._observe = pools, search, observe
        self._ledger = Ledger(config.paths.ledger)
        self._asking = RetryPolicy(config.storage_timeout, notify)
        self._reading = RetryPolicy(config.storage_timeout, notify)
        self._ask_again_at = 0.0
        self._error: Exception | None = None

    def propose(self, trial_id: str) -> Trial | Wait | Done:
        """The next trial, which Tune has as `trial_id` from now on."""
        if self._error:
            return Done()
        try:
            self._observe()
            if len(self.trials) >= self.pools.poll():
                return Wait()
            asked = self._ask()
        except Exception as error:
            return self._end_sweep(error)
        if isinstance(asked, Trial):
            self.trials[trial_id] = Dispatched(asked.key)
        return asked

    def rungs(self, trial: Trial) -> list[int]:
        """The epochs after which the trial reports."""
        return list(self._search.rungs(trial))

    def started(self, trial_id: str) -> None:
        """Tune has given the trial a trainable."""
        self.trials[trial_id].state = State.RUNNING

    def decide(self, trial_id: str, report: Report) -> bool:
        """Whether a trial at a rung continues; if not, its result is in the ledger.

        If its pool is gone it continues: its trainable enters another one and reports the rung
        again.
        """
        if self._error:
            return False
        trial = self.trials[trial_id]
        trial.state = State.AT_RUNG
        try:
            if self._search.rung(report.key, report.epoch, report.value) == "stop":
                stopped = self.pools.stop(report.key)
                if stopped is not None and stopped.status != "broken":
                    self.report(trial_id, stopped)
                    return False
        except Exception as error:
            self._end_sweep(error)
            return False
        trial.state = State.RUNNING
        return True

    def report(self, trial_id: str, report: Report) -> None:
        """The trial has left its pool: tell the search its result, or that it was lost.

        A lost trial may have a result all the same, if its trainable died after it ended.
        """
        trial = self.trials[trial_id]
        if trial.state is State.ENDED:
            return
        trial.state = State.ENDED
        if report.status == "refused":
            self._end_sweep(BackendError(report.message))
        try:
            key = trial.key
            result = report.result or self._reading.call(lambda: self._ledger.result(key))
            if result is not None:
                self._search.tell(result)
            self._search.failed(key, report.message)  # no effect on a trial that has a result
            self._observe()
        except Exception as error:
            self._end_sweep(error)

    def close_trial(self, trial_id: str) -> None:
        """Tune is done with the trial. If it has not ended, its trainable died."""
        if trial_id in self.trials:
            key = self.trials[trial_id].key
            self.report(trial_id, Report(key, "broken", message="its process died"))
            del self.trials[trial_id]

    def raise_error(self) -> None:
        """Raise what ended the sweep, if anything did."""
        if self._error:
            raise self._error

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles its Tuner at the start, and nobody reads it back."""
        return {}

    def _ask(self) -> Trial | Wait | Done:
        """What the search answers; `Wait` while its suggestion cannot be written."""
        if time.monotonic() < self._ask_again_at:
            return Wait()
        try:
            asked = self._search.ask()
        except StorageError as error:
            self._ask_again_at = time.monotonic() + self._asking.failed(error)
            return Wait()
        self._asking.succeeded()
        return asked

    def _end_sweep(self, error: Exception) -> Done:
        """End the sweep in good order with its first error; the pools refuse their trials."""
        if self._error is None:
            self._error = error
            self.pools.close(f"the sweep ends: {error}")
        return Done()
