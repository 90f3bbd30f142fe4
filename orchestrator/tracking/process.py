"""The sweep's handle on its tracking process. Nothing here imports MLflow or raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.provenance import import_variables
from orchestrator.storage.files import open_regular
from orchestrator.tracking.locations import URI_VARIABLE, log_file, unreachable

WRITER = "orchestrator.tracking.writer"
FINISH, INTERRUPT = "finish", "interrupt"


@dataclass(frozen=True)
class TrackingOutcome:
    """Whether MLflow has everything, and if not, the message for the user."""

    complete: bool
    message: str = ""


class TrackingProcess:
    """One low-priority process that copies the ledger to MLflow while the sweep runs.

    It ends on request, or by itself within seconds of its parent's end.

    Args:
        out: the sweep's folder, which holds `sweep.json` already.
        uri: MLflow tracking address (see `locations.default_uri`).
        lease: the token of the sweep's lock, held by the command that starts it.
        storage: the address of a sweep in an object store, whose working copy `out` is.
    """

    def __init__(self, out: Path, uri: str, lease: str, storage: str = "") -> None:
        self._out, self._uri, self._lease, self._storage = out, uri, lease, storage
        self._process: subprocess.Popen[str] | None = None
        self._failure = "it was not started."

    @property
    def pid(self) -> int | None:
        """The process id, once started."""
        return self._process.pid if self._process else None

    def start(self) -> TrackingProcess:
        """Start the process and return at once; `finish` reports a failure."""
        command = [sys.executable, "-m", WRITER, "--out", str(self._out), "--lease", self._lease]
        command += ["--storage", self._storage] if self._storage else []
        log = log_file(self._out)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(log, append=True) as errors:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    # A session of its own: Ctrl-C reaches the sweep alone, which then ends this.
                    start_new_session=True,
                    # The address is no argument: everybody may read those; it may hold a password.
                    env={**os.environ, **import_variables(), URI_VARIABLE: self._uri},
                )
        except OSError as error:
            self._failure = f"its process did not start ({error})."
        return self

    def finish(self, timeout: float = 60.0, interrupted: bool = False) -> TrackingOutcome:
        """Have the rest written, with report and registry; wait at most `timeout` seconds.

        Call it once, after the last result, report and registry are on disk. `interrupted` sets the
        status of the sweep's run to KILLED. The process has ended afterwards.
        """
        if self._process is None:
            return self._incomplete(self._failure)
        order = INTERRUPT if interrupted else FINISH
        try:
            answer, _ = self._process.communicate(f"{order}\n", timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            return self._incomplete(f"it was not done after {timeout:g} s.")
        except OSError as error:
            self.stop()
            return self._incomplete(f"its process ended early ({error}).")
        try:
            content: dict[str, Any] = json.loads(answer)
            return TrackingOutcome(bool(content["complete"]), str(content["message"]))
        except (ValueError, KeyError, TypeError):
            return self._incomplete(f"its process ended early; see {log_file(self._out)}.")

    def stop(self) -> None:
        """Kill the process; `orchestrate track` writes what is missing then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _incomplete(self, reason: str) -> TrackingOutcome:
        return TrackingOutcome(False, str(unreachable(self._out, self._uri, reason)))
