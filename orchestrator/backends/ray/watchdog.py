"""Ends a command whose cluster has died or does not answer; Ray itself waits for minutes.

A thread looks after the cluster. Once something is wrong it interrupts the main thread by a signal,
and `Watchdog` raises `BackendError` there. A main thread that Ray's library keeps waiting does not
hear of it; then the thread prints the same sentence and ends the process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import psutil
import ray
from ray.exceptions import RayError

from orchestrator.errors import BackendError, OrchestrateError

ANSWER_SECONDS = 18.0
"""How long a cluster may take to let the command in, and to answer then."""
END_SECONDS = 27.0
"""How long after its last answer the process is ended if nothing else helps."""
_LOCAL_START_SECONDS = 120.0
"""How long a local cluster may take to start; Ray gives up before."""
_REFUSED_SECONDS = 4.0
"""How long after `ANSWER_SECONDS` that is, while there is nothing to bring to an end."""
_TICK = 0.25
_SCAN_SECONDS = 5.0
"""Between two looks at which processes a local cluster has."""
_AFTERWARDS_SECONDS = 3.0
"""How long after an error of Ray's its cause may show."""
_SIGNAL = signal.SIGUSR2
"""Not SIGINT, which is a person's, nor SIGUSR1, which is Tune's."""
_NEEDED = ("gcs_server", "raylet")
"""The processes that a cluster cannot do without, by their names."""


class Watchdog:
    """Context manager around everything that is done with one cluster.

    Its end raises `BackendError` if something has happened to the cluster.

    Args:
        local: whether the command starts it; its processes end then, whatever has happened.
        refused: makes the error for a cluster that does not let the command in.
    """

    def __init__(self, local: bool, refused: Callable[[str], BackendError]) -> None:
        self._local, self._refused = local, refused
        self._error: BackendError | None = None
        self._left, self._lock = threading.Event(), threading.Lock()
        self._inside = self._leaving = False
        self._silent = 0.0
        self._lost = ""
        self._before: Any = None
        self._processes = _Processes()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(_SIGNAL, _interrupt)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._end()
        except KeyboardInterrupt:  # may be the thread's, which came late
            self._end()
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error from error

    def _end(self) -> None:
        with self._lock:
            self._left.set()
        if self._before is not None:
            signal.signal(_SIGNAL, self._before)

    def connected(self) -> None:
        """The cluster has let the command in; it has to answer from now on."""
        self._silent, self._inside = 0.0, True
        threading.Thread(target=self._ask, daemon=True).start()

    def cause(self, error: Exception) -> BackendError | None:
        """What an error means, which may come before its cause shows; None if it is not Ray's."""
        deadline = time.monotonic() + _AFTERWARDS_SECONDS
        while not isinstance(error, OrchestrateError) and time.monotonic() < deadline:
            if trouble := self._trouble():
                return self._explain(trouble)
            time.sleep(_TICK)
        if isinstance(error, RayError):
            last = (str(error).strip().splitlines() or [""])[-1].strip()
            return self._explain(f"{type(error).__name__}: {last}".rstrip(": "))
        return None

    def leaving(self) -> None:
        """The command disconnects; a local cluster ends."""
        self._silent, self._leaving = 0.0, True

    def _watch(self) -> None:
        """Counts its own ticks: a command that was stopped (Ctrl-Z) has not waited meanwhile."""
        while not self._left.wait(_TICK):
            self._silent += _TICK
            if self._local and not self._leaving:
                self._processes.scan()
            trouble = self._trouble()
            with self._lock:
                if not trouble or self._left.is_set():
                    continue
                self._error = self._explain(trouble)
                self._processes.kill()
                if self._before is not None:
                    signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
            grace = END_SECONDS - self._silent if self._inside else _REFUSED_SECONDS
            if not self._left.wait(max(grace, _TICK)):
                os.write(2, f"orchestrate: {self._error}\n".encode())
                os._exit(self._error.exit_code)
            return

    def _trouble(self) -> str:
        """What is wrong with the cluster; empty if nothing is."""
        if self._leaving:
            return "it does not let the command go" if self._silent > ANSWER_SECONDS else ""
        if dead := self._processes.dead():
            return f"its process '{dead}' has died"
        limit = _LOCAL_START_SECONDS if self._local and not self._inside else ANSWER_SECONDS
        return f"no answer for {limit:g} s" if self._silent > limit else self._lost

    def _explain(self, trouble: str) -> BackendError:
        if not self._inside:
            return self._refused(trouble)
        whose = "that this command started" if self._local else "of this command"
        return BackendError(
            f"the Ray cluster {whose} has failed: {trouble.rstrip('.')}. Nothing finished is lost: "
            "run the same command again to continue."
        )

    def _ask(self) -> None:
        """Asks the cluster for its nodes every second; hangs for good if it does not answer."""
        while not self._left.wait(1.0) and not self._leaving:
            with suppress(Exception):  # no answer, whatever its reason
                alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
                self._silent = 0.0
                mine = ray.get_runtime_context().get_node_id()
                self._lost = "" if mine in alive else "it has given up this machine"


class _Processes:
    """The processes of a local cluster: children of this one, and what they have started."""

    def __init__(self) -> None:
        self._needed: dict[str, psutil.Process] = {}
        self._below: set[psutil.Process] = set()
        self._next = 0.0

    def scan(self) -> None:
        """Note which there are; often until the cluster has started, then now and again."""
        if time.monotonic() < self._next:
            return
        with suppress(psutil.Error):  # one has just ended
            for child in psutil.Process().children():
                if child.name() in _NEEDED:
                    self._needed.setdefault(child.name(), child)
            for process in self._needed.values():
                self._below |= set(process.children(recursive=True))
        started = len(self._needed) == len(_NEEDED)
        self._next = time.monotonic() + (_SCAN_SECONDS if started else 1.0)

    def dead(self) -> str:
        """The name of a needed one that has died."""
        return next((name for name, process in self._needed.items() if not _lives(process)), "")

    def kill(self) -> None:
        """Kill all that were seen; first those below, which would report at length."""
        for process in (*self._below, *self._needed.values()):
            with suppress(psutil.Error):
                process.kill()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
