"""The command that shows a sweep in MLflow's own web interface."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.tracking import environment, places


def ui_command(out: Path, uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """A command line that serves MLflow's interface over the database at `uri` until it is ended.

    One worker, no runner of background work (MLflow's default starts a dozen processes), nothing
    reported to anybody. `TrackingError` when `uri` is a server (which has its own interface) or
    a database file that does not exist.
    """
    if not places.is_database(uri):
        raise TrackingError(
            f"'{environment.redact(uri)}' is a tracking server with an interface of its own: open "
            "that address in a browser."
        )
    file = places.sqlite_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"there is no MLflow database at '{file}' yet; `orchestrate track {out}` writes it "
            "from the ledger."
        )
    variables = {
        **environment.VARIABLES,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Not an argument: everybody may read those, and this may hold a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    settings = [f"{name}={value}" for name, value in variables.items()]
    server = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    artifacts = ["--default-artifact-root", places.artifact_root(out), "--no-serve-artifacts"]
    return ["env", *settings, *server, "--workers", "1", *artifacts]
