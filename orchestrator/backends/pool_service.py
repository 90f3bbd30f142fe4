"""A pool as a service: one thread trains; any number of callers wait for their trial's next report.

Plain Python, so that it can be tested without a cluster; `ray/pool_manager.py` makes an actor of
it. torch is imported by the training thread, not by whoever names this class.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.backends.pool_config import Decision, PoolConfig
from orchestrator.errors import BackendError, OrchestrateError
from orchestrator.spec import Trial, TrialResult

if TYPE_CHECKING:
    from orchestrator.backends.pool_worker import PoolWorker
    from orchestrator.engine.pool import AtRung


@dataclass(frozen=True)
class Report:
    """What a pool says of one trial.

    `rung`: it waits after `epoch` epochs with the accuracy `value` on val. `ended`: `result` is in
    the ledger. `refused`: a person must act on `message`, the sweep cannot go on. `broken`: the
    trial was lost to its machine and can be tried again.
    """

    key: str
    status: Literal["rung", "ended", "refused", "broken"]
    epoch: int = 0
    value: float = 0.0
    message: str = ""
    result: TrialResult | None = None


@dataclass(frozen=True)
class _Call:
    """An action on the pool that waits for the trial's next report."""

    key: str
    action: Callable[[PoolWorker], Report | None]
    report: Future[Report] = field(default_factory=Future)


class _Closed(BackendError):
    """The sweep ends; the message says why."""


class PoolService:
    """Owns a `PoolWorker` in a thread of its own; every call blocks until its report is there."""

    def __init__(
        self, config: PoolConfig, device: str, threads: int, part: str = "", share: float = 1.0
    ) -> None:
        self._arguments = (config, device, threads, part, share)
        self._inbox: queue.Queue[_Call] = queue.Queue()
        self._callers: dict[str, Future[Report]] = {}  # used by the pool's thread alone
        self._slots: int | None = None
        threading.Thread(target=self._serve, name="pool", daemon=True).start()

    def train(self, trial: dict[str, Any], rungs: Sequence[int]) -> Report:
        """Add a trial and wait for its first report.

        A trial that is here already (its caller died) or has a result is not added again.
        """
        made = Trial.from_dict(trial)

        def begin(worker: PoolWorker) -> Report | None:
            recorded = worker.recorded(made.key)
            if recorded is not None:
                return _report(recorded)
            if made.key not in worker.pool:
                worker.add(made, rungs)
            waiting = worker.pool.at_rung(made.key)
            return None if waiting is None else _report(waiting)

        return self._call(made.key, begin)

    def proceed(self, key: str) -> Report:
        """Continue a trial from its rung and wait for its next report."""
        return self._answer(key, "continue")

    def stop(self, key: str) -> Report:
        """End a trial at its rung; its result is in the ledger when this returns."""
        return self._answer(key, "stop")

    def slots(self) -> int | None:
        """How many trials the pool runs at once; None before its first."""
        return self._slots

    def close(self, message: str) -> Report:
        """Refuse every trial that is here and every later one: the sweep ends."""

        def end(_: PoolWorker) -> Report:
            raise _Closed(message)

        return self._call("", end)

    def _answer(self, key: str, decision: Decision) -> Report:
        def act(worker: PoolWorker) -> Report | None:
            if worker.pool.at_rung(key) is None:
                raise RuntimeError("its pool was reset while it waited at a rung")
            result = worker.answer(key, decision)
            return None if result is None else _report(result)

        return self._call(key, act)

    def _call(self, key: str, action: Callable[[PoolWorker], Report | None]) -> Report:
        call = _Call(key, action)
        self._inbox.put(call)
        return call.report.result()

    def _serve(self) -> None:
        worker: PoolWorker | None = None
        try:
            from orchestrator.backends.pool_worker import PoolWorker

            worker = PoolWorker(*self._arguments)
            while True:
                self._work_or_reset(worker)
        except Exception as error:  # reported to every caller: nobody else would hear of it
            if worker is not None and isinstance(error, _Closed):
                with suppress(OSError, OrchestrateError):  # the last records, for people only
                    worker.close()
            self._fail_all(error)
            while True:
                call = self._inbox.get()
                call.report.set_result(_failure(call.key, error))

    def _work_or_reset(self, worker: PoolWorker) -> None:
        try:
            self._work(worker)
        except _Closed:
            raise
        except Exception as error:  # the pool's state is unknown: start with an empty one
            worker.reset()
            self._fail_all(error)

    def _work(self, worker: PoolWorker) -> None:
        """Take every call in the inbox (wait for one if nothing runs), then train one step."""
        while worker.pool.running == 0 or not self._inbox.empty():
            self._take(worker, self._inbox.get())
        self._slots = worker.pool.slots
        for event in worker.advance():
            self._send(_report(event))

    def _take(self, worker: PoolWorker, call: _Call) -> None:
        self._send(_failure(call.key, RuntimeError("another caller took the trial over")))
        self._callers[call.key] = call.report
        try:
            report = call.action(worker)
        except Exception as error:
            if isinstance(error, _Closed) or call.key in worker.pool:  # all end; or half added
                raise
            report = _failure(call.key, error)  # the other trials are not affected
        if report is not None:
            self._send(report)

    def _send(self, report: Report) -> None:
        caller = self._callers.pop(report.key, None)
        if caller is not None:
            caller.set_result(report)

    def _fail_all(self, error: Exception) -> None:
        for key in list(self._callers):
            self._send(_failure(key, error))


def _report(event: AtRung | TrialResult) -> Report:
    if isinstance(event, TrialResult):
        return Report(event.key, "ended", result=event)
    return Report(event.key, "rung", event.epoch, event.value)


def _failure(key: str, error: Exception) -> Report:
    if isinstance(error, OrchestrateError | ValueError):
        return Report(key, "refused", message=str(error))
    return Report(key, "broken", message=f"{type(error).__name__}: {error}")
