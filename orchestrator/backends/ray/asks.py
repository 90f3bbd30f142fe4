"""The search as Tune sees it: a Searcher, a scheduler and a callback around one `Search`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnschedulableError, RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.backends.plan import HostPlan
from orchestrator.backends.pool_actor import Report
from orchestrator.backends.ray.starts import Starts
from orchestrator.backends.ray.width import PAUSE, Width
from orchestrator.errors import BackendError, StorageError
from orchestrator.results.ledger import Ledger
from orchestrator.search.search import Done, Search, Wait
from orchestrator.spec import Trial, TrialResult
from orchestrator.storage.retry import RetryPolicy


class Asks(Searcher):
    """`Search` as Tune wants it. It never raises: what goes wrong is kept and raised by `close`."""

    def __init__(
        self,
        search: Search,
        plan: HostPlan,
        width: Width,
        directory: Any,
        observe: Callable[[], None],
        say: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.search = search
        self._ledger = Ledger(plan.paths.ledger)
        self._asking = RetryPolicy(plan.storage_patience, say)
        self._reading = RetryPolicy(plan.storage_patience, say)
        self._refused_until = 0.0
        self._width, self._directory, self._observe = width, directory, observe
        self.starts = Starts()
        self._live: dict[str, str] = {}
        self._told: set[str] = set()
        self._asked: Any = None
        self._until = 0.0
        self._error: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None to wait, FINISHED at the end."""
        if self._error:
            return str(Searcher.FINISHED)
        try:
            self._observe()
            self._listen()
            if len(self._live) >= self._width.planned() or not self.starts.pays():
                return None
            asked = self._ask()
        except Exception as error:  # a Searcher that raises would end the sweep with a traceback
            self.refuse(error)
            return str(Searcher.FINISHED)
        if isinstance(asked, Trial):
            self._live[trial_id] = asked.key
            self.starts.asked(trial_id)
            rungs = list(self.search.rungs(asked))
            share = self._width.share()
            return {"trial": asked.to_dict(), "key": asked.key, "rungs": rungs, "share": share}
        return str(Searcher.FINISHED) if isinstance(asked, Done) else None

    def _ask(self) -> Trial | Wait | Done:
        """What the search says; to wait, while storage refuses its suggestion."""
        if time.monotonic() < self._refused_until:
            return Wait()
        try:
            asked = self.search.ask()
        except StorageError as error:
            self._refused_until = time.monotonic() + self._asking.failed(error)
            return Wait()
        self._asking.succeeded()
        return asked

    def _listen(self) -> None:
        """Hears what the pools have measured; asks every few seconds and never waits for it."""
        if self._asked is None and time.monotonic() > self._until:
            self._asked = self._directory.slots.remote()
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._width.heard(ray.get(self._asked))
            self._asked, self._until = None, time.monotonic() + PAUSE

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Rungs are the scheduler's."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The row was told by `Rows`, or is looked up; a trial that left none has failed."""
        key = self._live.pop(trial_id, "")
        self.starts.ended(trial_id)
        status = (result or {}).get("status", "lost")
        message = str((result or {}).get("message", "its process died"))
        if status == "refused":
            self.refuse(BackendError(message))
        try:
            if key not in self._told:
                row = self._reading.call(lambda: self._ledger.result(key))
                if row is not None:
                    self.search.tell(row)
            self._told.discard(key)
            self.search.failed(key, message)  # no effect on a trial whose row was told
            self._observe()
        except Exception as problem:  # as in suggest
            self.refuse(problem)

    def take(self, row: TrialResult) -> None:
        """Tells the search a row as its pool recorded it: it need not be read from the ledger."""
        try:
            self.search.tell(row)
            self._told.add(row.key)
        except Exception as problem:  # as in suggest
            self.refuse(problem)

    def stops(self, result: dict[str, Any]) -> bool:
        """Whether the trial ends at its rung; if so its record is in the ledger already.

        When its pool is gone it goes on: its trainable finds out, and it reports the rung again.
        """
        if self._error:
            return True
        try:
            if self.search.rung(result["key"], result["epoch"], result["value"]) == "continue":
                return False
            pool = ray.get(self._directory.pool.remote(result["pool"]))
            report: Report = ray.get(pool.stop.remote(result["key"]))
        except (RayActorError, ActorUnschedulableError):
            return False
        except Exception as error:  # as in suggest
            self.refuse(error)
            return True
        self._directory.leave.remote(result["key"])
        if report["status"] == "refused":
            self.refuse(BackendError(report["message"]))
        return bool(report["status"] != "broken")

    def refuse(self, error: Exception) -> None:
        """Ends the sweep in good order, with this error; the pools let go of their trials."""
        if self._error is None:
            self._error = error
            self._directory.close.remote(f"the sweep ends: {error}")

    def close(self) -> None:
        """Raises what went wrong, if anything did."""
        if self._error:
            raise self._error

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its Tuner at the start, and nobody reads it back."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger and the asks are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class Rows(tune.Callback):
    """Takes the rows out of what trainables report: Tune would copy them and keep them all."""

    def __init__(self, asks: Asks) -> None:
        self._asks = asks

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """A trial has its trainable."""
        self._asks.starts.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Called before the search hears that the trial is over."""
        row = result.pop("row", None)
        if row is not None:
            self._asks.take(row.result)


class Rungs(FIFOScheduler):
    """Each study's own stopping rule as Tune's scheduler."""

    def __init__(self, asks: Asks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._asks = asks

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continues a trial that is not at a rung, or that its rule lets go on."""
        if result.get("status") == "rung" and self._asks.stops(result):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)
