"""Shows a sweep in MLflow's own web interface."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.storage.sweep_storage import paths_of
from orchestrator.tracking import environment, locations

INTERRUPTED = 130


def serve(out: Path, uri: str, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serve MLflow's interface until its server ends or Ctrl-C; the exit code (130 after Ctrl-C).

    Whichever way this returns, none of the server's processes is left. Errors: see `ui_command`.
    """
    # Its own session: MLflow starts a second process, and both would answer Ctrl-C with a trace.
    server = subprocess.Popen(ui_command(out, uri, host, port), start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ui_command(out: Path, uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """A command line that serves MLflow's interface over the database at `uri` until it is ended;
    it starts processes of its own (see `serve`).

    One worker, no runner of background work (MLflow's default starts a dozen processes), nothing
    reported to anybody. `InvalidInput` when `out` holds no sweep; `TrackingError` when `uri` is a
    server (which has its own interface) or a database file that does not exist.
    """
    locations.read_sweep(out)
    if not locations.is_database(uri):
        raise TrackingError(
            f"'{environment.redact(uri)}' is a tracking server with an interface of its own: open "
            "that address in a browser."
        )
    file = locations.sqlite_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"there is no MLflow database at '{file}' yet; `orchestrate track "
            f"{paths_of(out).name}` writes it from the ledger."
        )
    variables = {
        **environment.VARIABLES,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Not an argument: everybody may read those, and this may hold a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    settings = [f"{name}={value}" for name, value in variables.items()]
    server = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    artifacts = [
        "--default-artifact-root",
        locations.artifact_root(out, uri),
        "--no-serve-artifacts",
    ]
    return ["env", *settings, *server, "--workers", "1", *artifacts]
