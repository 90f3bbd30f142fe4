"""MLflow's addresses and environment variables. Nothing here imports MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.storage.addresses import redacted
from orchestrator.storage.sweep_storage import paths_of

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""The tracking address of MLflow's own tools; a sweep uses it where it is given no other."""
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines per run, with a server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # MLflow's own retries would repeat a "create run" whose answer was lost; the writer retries
    # itself, after it has read which runs exist.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""No telemetry, no progress output, and an absent server is noticed in seconds."""


def set_variables() -> None:
    """Set `VARIABLES` where they are unset; call before MLflow is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def default_uri(out: Path) -> str:
    """The SQLite database inside the sweep's folder."""
    return f"sqlite:///{out.resolve() / 'mlflow.db'}"


def chosen_uri(out: Path, given: str | None) -> str:
    """The address to use: the one `given`, else `$MLFLOW_TRACKING_URI`, else the `default_uri`."""
    return given or os.environ.get(URI_VARIABLE) or default_uri(out)


def viewer(name: str, out: Path, uri: str) -> str:
    """Where to see the runs of sweep `name` at `uri`: a command to type, or a URL to open."""
    if not is_database(uri):
        return redacted(uri)
    return f"orchestrate ui {name}" + _option(out, uri)


def artifact_root(out: Path, uri: str) -> str:
    """`file://` address of the artifact folder where no server keeps artifacts.

    Beside a SQLite database, which several sweeps may share; otherwise in the sweep's folder.
    """
    file = sqlite_file(uri)
    return ((file.parent if file else out).resolve() / "mlartifacts").as_uri()


def log_file(out: Path) -> Path:
    """The log of the tracking process."""
    return out / "logs" / "tracking.log"


def is_database(uri: str) -> bool:
    """Whether MLflow opens `uri` directly, without a server."""
    return uri.split(":", 1)[0].split("+", 1)[0] in DATABASES


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite address; None for every other address."""
    scheme, _, path = uri.partition("?")[0].partition(":///")
    return Path(path) if scheme == "sqlite" and path not in ("", ":memory:") else None


def unreachable(out: Path, uri: str, reason: object) -> TrackingError:
    """The error of a failed exchange with MLflow: address, reason, next step; no secrets."""
    lines = redacted(str(reason), uri).strip().splitlines() or ["no reason given."]
    return TrackingError(
        f"tracking at {redacted(uri)} does not work: {lines[0][:300]} Nothing is lost: the ledger "
        f"has every result, and `orchestrate track {paths_of(out).name}{_option(out, uri)}` writes "
        "what is missing."
    )


def _option(out: Path, uri: str) -> str:
    """The option that a command needs for `uri`; empty for the default address."""
    return "" if uri == default_uri(out) else f" --tracking-uri {redacted(uri)}"
