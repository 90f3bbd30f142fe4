"""`python -m orchestrator.tracking.writer`: the one process that writes a running sweep to MLflow.

It reads the ledger about once a second and obeys its standard input: a line `finish` or `interrupt`
means "write the rest, answer, end"; the end of the input means that the sweep is gone. It may be
killed anywhere: the next writer completes what it left (see `tracker`).
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
from orchestrator.storage.folder_lock import hold_worker_lock
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage
from orchestrator.tracking.environment import URI_VARIABLE, redact
from orchestrator.tracking.locations import default_uri
from orchestrator.tracking.lock import only_writer
from orchestrator.tracking.process import FINISH, INTERRUPT
from orchestrator.tracking.tracker import Tracker

PERIOD = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between looks at the ledger, and at most between attempts at a tracker that fails."""
GONE = ""
"""What is read where the input has ended."""
REMOTE_PERIOD, RECALL = 5.0, 15.0
"""The same in an object store, which is asked for less often; and between looks at the pools'."""
LAST_ATTEMPTS, LAST_PATIENCE = 3, 10.0
LIFE_AFTER_PARENT = 3.0
"""Seconds to note in MLflow that the sweep was killed; the next command waits for this."""

log = logging.getLogger("orchestrator.tracking")


class Orders:
    """What the sweep says on `stream`, heard by a thread; `order` is None until then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._heard = threading.Event()
        self._parent = os.getppid()
        self.order: str | None = None
        for work in (self._listen, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def wait(self, seconds: float) -> str | None:
        """The order, as soon as there is one; None after `seconds` without."""
        self._heard.wait(seconds)
        return self.order

    def _listen(self) -> None:
        self._give(self._stream.readline().strip())

    def _watch(self) -> None:
        """The end of the input is not enough: a process that the sweep forked may hold the pipe."""
        while self.order != GONE and os.getppid() == self._parent:
            time.sleep(PERIOD)
        self._give(GONE)
        time.sleep(LIFE_AFTER_PARENT)
        os._exit(1)

    def _give(self, order: str) -> None:
        if self.order is None:
            self.order = order
        self._heard.set()


class Writer:
    """The loop: copy new rows; after a failure start over from what MLflow really holds."""

    def __init__(
        self,
        out: Path,
        uri: str,
        open_tracker: Callable[[Path, str], Tracker],
        storage: SweepStorage | None = None,
    ) -> None:
        self._out, self._uri, self._open_tracker = out, uri, open_tracker
        self._storage = storage or SweepStorage(SweepPaths(out))
        self._ledger = Ledger(self._storage.paths.ledger)
        self._recalled = 0.0
        self._tracker: Tracker | None = None
        self._held = ExitStack()

    def run(self, orders: Orders) -> dict[str, object]:
        """Work until told to end; the answer for the sweep."""
        period = pause = PERIOD if self._storage.store is None else REMOTE_PERIOD
        while (order := orders.wait(pause)) is None:
            pause = period if self._attempt(self.copy) else min(2 * pause, LONGEST_PAUSE)
        if order in (FINISH, INTERRUPT):
            return self._finish("FINISHED" if order == FINISH else "KILLED")
        if self._tracker is not None:
            self._attempt(lambda: self._last_words("KILLED"))
        return {"complete": False, "message": "the sweep ended without saying so"}

    def copy(self) -> None:
        """Write the rows that are new in the ledger."""
        tracker = self._opened(0.0)
        rows = self._ledger.new_results(tracker.seen)
        if rows or not tracker.seen:
            tracker.update(rows)
        self._note(tracker)

    def _note(self, tracker: Tracker) -> None:
        """What the pools noted; those of other machines are asked for now and then."""
        pools = self._storage.paths.pools
        if time.monotonic() > self._recalled + RECALL:
            self._storage.sync_down(pools, growing=True)
            self._recalled = time.monotonic()
        tracker.note(throughput.read(pools))

    def _opened(self, patience: float) -> Tracker:
        if self._tracker is None:
            with ExitStack() as stack:
                stack.enter_context(only_writer(self._out, patience))
                self._tracker = self._open_tracker(self._out, self._uri)
                self._held = stack.pop_all()
            log.info("writing to %s", self._uri)
        return self._tracker

    def _last_words(self, status: str) -> None:
        tracker = self._opened(LAST_PATIENCE)
        tracker.update(self._ledger.new_results(tracker.seen))
        self._recalled = 0.0
        self._note(tracker)
        tracker.upload(self._out)
        tracker.close(status)

    def _finish(self, status: str) -> dict[str, object]:
        for number in range(LAST_ATTEMPTS):
            time.sleep(PERIOD if number else 0.0)
            failure = self._failure(lambda: self._last_words(status))
            if failure is None:
                log.info("everything is written")
                return {"complete": True, "message": ""}
        return {"complete": False, "message": failure}

    def _attempt(self, work: Callable[[], None]) -> bool:
        return self._failure(work) is None

    def _failure(self, work: Callable[[], None]) -> str | None:
        """Do `work`; the message if it failed, and then nothing that was known of MLflow holds."""
        try:
            work()
        except (OrchestrateError, OSError) as error:
            self._tracker = None
            self._held.close()
            log.warning("%s", error)
            return redact(str(error))
        return None


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def main() -> None:
    """Run the process; see the module."""
    parser = argparse.ArgumentParser(prog="orchestrator.tracking.writer", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the sweep's folder")
    parser.add_argument("--tracking-uri", help=f"MLflow address [default: ${URI_VARIABLE}]")
    parser.add_argument("--lease", required=True, help="token of the sweep's lease")
    parser.add_argument("--home", help="address of a sweep whose working copy --out is")
    options = parser.parse_args()
    os.nice(10)
    _log_to_stderr()
    orders = Orders(sys.stdin)
    sys.stdout = sys.stderr  # whatever a library prints is not an answer
    try:
        # Held until the process ends: the next command waits for that.
        _lock = hold_worker_lock(options.out, options.lease)
        from orchestrator.tracking.mlflow import open_tracker  # at low priority: it takes seconds

        uri = options.tracking_uri or os.environ.get(URI_VARIABLE) or default_uri(options.out)
        storage = SweepStorage(SweepPaths(options.out, options.storage or ""))
        answer = Writer(options.out, uri, open_tracker, storage).run(orders)
    except Exception as error:
        log.exception("tracking ended")
        answer = {"complete": False, "message": redact(str(error))}
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(answer).encode())


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)


if __name__ == "__main__":
    main()
