"""`python -m orchestrator.tracking.writer`: the one process that writes a running sweep to MLflow.

It reads the ledger about once a second. A line `finish` or `interrupt` on its standard input means
"write the rest, answer, end"; the end of the input means that the sweep has ended. It may be killed
at any moment: the next writer completes what it left (see `tracker`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO

from orchestrator.errors import OrchestrateError
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.storage.addresses import redacted
from orchestrator.storage.folder_lock import hold_worker_lock
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage
from orchestrator.tracking.locations import chosen_uri
from orchestrator.tracking.process import FINISH, INTERRUPT
from orchestrator.tracking.tracker import Tracker, only_writer

PERIOD = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between reads of the ledger, and at most between attempts after failures."""
GONE = ""
"""The order where the input has ended."""
REMOTE_PERIOD, SYNC_PERIOD = 5.0, 15.0
"""Seconds between reads of a ledger in an object store, and of the pools' utilisation there."""
LAST_ATTEMPTS, LAST_TIMEOUT = 3, 10.0
LIFE_AFTER_PARENT = 3.0
"""Seconds to record in MLflow that the sweep was killed; the next command waits for this."""

log = logging.getLogger("orchestrator.tracking")


class Orders:
    """The order of the sweep on `stream`, read by a thread; `order` is None until it arrives."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._arrived = threading.Event()
        self._parent = os.getppid()
        self.order: str | None = None
        for work in (self._listen, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def wait(self, seconds: float) -> str | None:
        """The order as soon as it arrives; None after `seconds`."""
        self._arrived.wait(seconds)
        return self.order

    def _listen(self) -> None:
        self._give(self._stream.readline().strip())

    def _watch(self) -> None:
        """The end of the input is not enough: a process forked by the sweep may hold the pipe."""
        while self.order != GONE and os.getppid() == self._parent:
            time.sleep(PERIOD)
        self._give(GONE)
        time.sleep(LIFE_AFTER_PARENT)
        os._exit(1)

    def _give(self, order: str) -> None:
        if self.order is None:
            self.order = order
        self._arrived.set()


class Writer:
    """The loop: write new rows; after a failure start again from what MLflow has."""

    def __init__(
        self,
        out: Path,
        uri: str,
        open_tracker: Callable[[Path, str], Tracker],
        storage: SweepStorage,
    ) -> None:
        self._out, self._uri, self._open_tracker = out, uri, open_tracker
        self._storage = storage
        self._ledger = Ledger(self._storage.paths.ledger)
        self._synced = 0.0
        self._tracker: Tracker | None = None
        self._held = ExitStack()

    def run(self, orders: Orders) -> dict[str, object]:
        """Write until an order arrives; the answer for the sweep."""
        period = pause = PERIOD if self._storage.store is None else REMOTE_PERIOD
        while (order := orders.wait(pause)) is None:
            failed = self._failure(self.copy) is not None
            pause = min(2 * pause, LONGEST_PAUSE) if failed else period
        if order in (FINISH, INTERRUPT):
            return self._finish("FINISHED" if order == FINISH else "KILLED")
        if self._tracker is not None:
            self._failure(lambda: self._write_rest("KILLED"))
        return {"complete": False, "message": "the sweep ended without an order"}

    def copy(self) -> None:
        """Write the rows that are new in the ledger."""
        tracker = self._opened(0.0)
        rows = self._ledger.new_results(tracker.seen)
        if rows or not tracker.seen:
            tracker.update(rows)
        self._note(tracker)

    def _note(self, tracker: Tracker) -> None:
        """Write the pools' utilisation; that of other machines is downloaded now and then."""
        pools = self._storage.paths.pools
        if time.monotonic() > self._synced + SYNC_PERIOD:
            self._storage.sync_down(pools, growing=True)
            self._synced = time.monotonic()
        tracker.note(throughput.read(pools))

    def _opened(self, timeout: float) -> Tracker:
        if self._tracker is None:
            with ExitStack() as stack:
                stack.enter_context(only_writer(self._out, timeout))
                self._tracker = self._open_tracker(self._out, self._uri)
                self._held = stack.pop_all()
            log.info("writing to %s", self._uri)
        return self._tracker

    def _write_rest(self, status: str) -> None:
        tracker = self._opened(LAST_TIMEOUT)
        tracker.update(self._ledger.new_results(tracker.seen))
        self._synced = 0.0
        self._note(tracker)
        tracker.upload(self._out)
        tracker.close(status)

    def _finish(self, status: str) -> dict[str, object]:
        for number in range(LAST_ATTEMPTS):
            time.sleep(PERIOD if number else 0.0)
            failure = self._failure(lambda: self._write_rest(status))
            if failure is None:
                log.info("everything is written")
                return {"complete": True, "message": ""}
        return {"complete": False, "message": failure}

    def _failure(self, work: Callable[[], None]) -> str | None:
        """Do `work`; the message if it failed: the tracker is invalid then."""
        try:
            work()
        except (OrchestrateError, OSError) as error:
            self._tracker = None
            self._held.close()
            log.warning("%s", error)
            return redacted(str(error))
        return None


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def main() -> None:
    """Run the process; see the module."""
    parser = argparse.ArgumentParser(prog="orchestrator.tracking.writer", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the sweep's folder")
    parser.add_argument("--lease", required=True, help="token of the sweep's lease")
    parser.add_argument("--storage", help="address of a sweep whose working copy --out is")
    options = parser.parse_args()
    os.nice(10)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    orders = Orders(sys.stdin)
    sys.stdout = sys.stderr  # libraries must not print into the answer
    try:
        # Held until the process ends: the next command waits for it.
        _lock = hold_worker_lock(options.out, options.lease)
        from orchestrator.tracking.mlflow import open_tracker  # takes seconds: at low priority

        uri = chosen_uri(options.out, None)
        storage = SweepStorage(SweepPaths(options.out, options.storage or ""))
        answer = Writer(options.out, uri, open_tracker, storage).run(orders)
    except Exception as error:
        log.exception("tracking ended")
        answer = {"complete": False, "message": redacted(str(error))}
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
