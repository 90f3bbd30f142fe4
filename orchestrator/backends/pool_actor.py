"""A pool as a service: one thread trains, any number of callers wait for their trial's next report.

Plain Python, so that it can be tested without a cluster; `ray.py` makes an actor of it. torch is
imported by the training thread, not by whoever names this class.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from orchestrator.backends.plan import HostPlan
from orchestrator.errors import OrchestrateError
from orchestrator.spec import Trial

if TYPE_CHECKING:
    from orchestrator.backends.host import PoolHost

Report = dict[str, Any]
"""`status`: rung, finished, diverged, stopped, refused (a person must act), broken (try again)."""


class PoolService:
    """Owns a `PoolHost` in a thread of its own; every call blocks until its report is there."""

    def __init__(self, plan: HostPlan, device: str, threads: int) -> None:
        self._plan, self._device, self._threads = plan, device, threads
        self._inbox: queue.Queue[tuple[str, Callable[[PoolHost], Report | None]]] = queue.Queue()
        self._reports: dict[str, Future[Report]] = {}
        self._guard = threading.Lock()
        self._peak = 0
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
        return self._call(key, lambda host: _none(host.answer(key, "continue")))

    def stop(self, key: str) -> Report:
        """Ends a trial at its rung; its record is in the ledger when this returns."""

        def end(host: PoolHost) -> Report:
            result = host.answer(key, "stop")
            return {"key": key, "status": "stopped", "epoch": result.epochs_run if result else 0}

        return self._call(key, end)

    def peak(self) -> int:
        """The most trials that were ever in the pool at once."""
        return self._peak

    def _call(self, key: str, action: Callable[[PoolHost], Report | None]) -> Report:
        future: Future[Report] = Future()
        with self._guard:
            self._reports[key] = future
        self._inbox.put((key, action))
        return future.result()

    def _serve(self) -> None:
        try:
            from orchestrator.backends.host import PoolHost

            host = PoolHost(self._plan, self._device, self._threads)
        except Exception as error:  # reported to every caller, there is nobody else to tell
            while True:
                self._send(self._inbox.get()[0], _failure(error))
        while True:
            try:
                self._work(host)
            except (
                Exception
            ) as error:  # the pool's state is unknown: start it afresh, tell everyone
                host.reset()
                for key in list(self._reports):
                    self._send(key, _failure(error))

    def _work(self, host: PoolHost) -> None:
        while host.running == 0 or not self._inbox.empty():
            key, action = self._inbox.get()
            try:
                report = action(host)
            except Exception as error:  # one trial's trouble is not its neighbours'
                report = _failure(error)
            if report is not None:
                self._send(key, report)
            self._peak = max(self._peak, len(host))
        for event in host.advance():
            report = _report(event)
            self._send(report["key"], report)

    def _send(self, key: str, report: Report) -> None:
        with self._guard:
            future = self._reports.pop(key, None)
        if future is not None:
            future.set_result({"key": key, **report})


def _report(event: Any) -> Report:
    from orchestrator.engine.pool import AtRung

    if isinstance(event, AtRung):
        return {"key": event.key, "status": "rung", "epoch": event.epoch, "value": event.value}
    value = -1.0 if event.value is None else event.value
    return {"key": event.key, "status": event.status, "epoch": event.epochs_run, "value": value}


def _failure(error: Exception) -> Report:
    status = "refused" if isinstance(error, OrchestrateError | ValueError) else "broken"
    return {
        "status": status,
        "epoch": 0,
        "value": -1.0,
        "message": f"{error}" or type(error).__name__,
    }


def _none(_: object) -> None:
    return None
