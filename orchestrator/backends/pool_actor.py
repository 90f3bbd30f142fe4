"""A pool as a service: one thread trains, any number of callers wait for their trial's next report.

Plain Python, so that it can be tested without a cluster; `ray/directory.py` makes an actor of it.
torch is imported by the training thread, not by whoever names this class.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.backends.plan import Decision, HostPlan
from orchestrator.errors import BackendError, OrchestrateError
from orchestrator.spec import Trial, TrialResult

if TYPE_CHECKING:
    from orchestrator.backends.host import PoolHost
    from orchestrator.engine.pool import AtRung

Report = dict[str, Any]
"""`status`: rung, finished, diverged, stopped, refused (a person must act), broken (try again);
`row`: the `Row` of a trial that has ended, which is in the ledger already."""


@dataclass(frozen=True, repr=False)
class Row:
    """A result on its way through Tune, which writes all that it hands on into its debug log."""

    result: TrialResult


@dataclass(frozen=True)
class _Call:
    """What a caller wants of the pool, and where it waits for the report."""

    key: str
    action: Callable[[PoolHost], Report | None]
    report: Future[Report] = field(default_factory=Future)


class _Closed(BackendError):
    """The sweep ends; the message says why."""


class PoolService:
    """Owns a `PoolHost` in a thread of its own; every call blocks until its report is there."""

    def __init__(
        self,
        plan: HostPlan,
        device: str,
        threads: int,
        part: str = "",
        share: float = 1.0,
    ) -> None:
        self._arguments = (plan, device, threads, part, share)
        self._inbox: queue.Queue[_Call] = queue.Queue()
        self._callers: dict[str, Future[Report]] = {}  # the pool's thread alone touches it
        self._slots: int | None = None
        threading.Thread(target=self._serve, name="pool", daemon=True).start()

    def train(self, trial: dict[str, Any], rungs: Sequence[int]) -> Report:
        """Adds a trial and waits for its first report.

        A trial that is here already (its caller died) is not added again, nor one with a record.
        """
        made = Trial.from_dict(trial)

        def begin(host: PoolHost) -> Report | None:
            if host.recorded(made.key):
                return {"status": "finished", "epoch": made.recipe.epochs, "value": -1.0}
            if made.key not in host:
                host.add(made, rungs)
            waiting = host.at_rung(made.key)
            return None if waiting is None else _report(waiting)

        return self._call(made.key, begin)

    def proceed(self, key: str) -> Report:
        """Lets a trial go on from its rung and waits for its next report."""
        return self._answer(key, "continue")

    def stop(self, key: str) -> Report:
        """Ends a trial at its rung; its record is in the ledger when this returns."""
        return self._answer(key, "stop")

    def slots(self) -> int | None:
        """How many trials the pool runs at once; None before its first."""
        return self._slots

    def close(self, message: str) -> Report:
        """Refuses every trial that is here and every later one: the sweep ends."""

        def end(_: PoolHost) -> Report:
            raise _Closed(message)

        return self._call("", end)

    def _answer(self, key: str, decision: Decision) -> Report:
        def act(host: PoolHost) -> Report | None:
            if host.at_rung(key) is None:
                raise RuntimeError("its pool began afresh while it waited at a rung")
            result = host.answer(key, decision)
            return None if result is None else _report(result)

        return self._call(key, act)

    def _call(self, key: str, action: Callable[[PoolHost], Report | None]) -> Report:
        call = _Call(key, action)
        self._inbox.put(call)
        return call.report.result()

    def _serve(self) -> None:
        host: PoolHost | None = None
        try:
            from orchestrator.backends.host import PoolHost

            host = PoolHost(*self._arguments)
            while True:
                self._work_or_reset(host)
        except Exception as error:  # told to every caller, there is nobody else to tell
            if host is not None and isinstance(error, _Closed):
                with suppress(OSError, OrchestrateError):  # its last figures, for people only
                    host.close()
            self._fail_all(error)
            while True:
                self._inbox.get().report.set_result(_failure(error))

    def _work_or_reset(self, host: PoolHost) -> None:
        try:
            self._work(host)
        except _Closed:
            raise
        except Exception as error:  # the pool's state is unknown: start it afresh
            host.reset()
            self._fail_all(error)

    def _work(self, host: PoolHost) -> None:
        """Takes every call that is there (waits for one if nothing runs), then one step."""
        while host.running == 0 or not self._inbox.empty():
            self._take(host, self._inbox.get())
        self._slots = host.slots
        for event in host.advance():
            self._send(event.key, _report(event))

    def _take(self, host: PoolHost, call: _Call) -> None:
        self._send(call.key, _failure(RuntimeError("another caller took the trial over")))
        self._callers[call.key] = call.report
        try:
            report = call.action(host)
        except Exception as error:
            if isinstance(error, _Closed) or call.key in host:  # all end, or it is half in the pool
                raise
            report = _failure(error)  # one trial's trouble is not its neighbours'
        if report is not None:
            self._send(call.key, report)

    def _send(self, key: str, report: Report) -> None:
        caller = self._callers.pop(key, None)
        if caller is not None:
            caller.set_result({"key": key, **report})

    def _fail_all(self, error: Exception) -> None:
        for key in list(self._callers):
            self._send(key, _failure(error))


def _report(event: AtRung | TrialResult) -> Report:
    if isinstance(event, TrialResult):
        value = -1.0 if event.value is None else event.value
        return {
            "key": event.key,
            "status": event.status,
            "epoch": event.epochs_run,
            "value": value,
            "row": Row(event),
        }
    return {"key": event.key, "status": "rung", "epoch": event.epoch, "value": event.value}


def _failure(error: Exception) -> Report:
    refused = isinstance(error, OrchestrateError | ValueError)
    return {
        "status": "refused" if refused else "broken",
        "epoch": 0,
        "value": -1.0,
        "message": str(error) if refused else f"{type(error).__name__}: {error}",
    }
