"""MLflow's addresses and environment variables. Nothing here imports MLflow."""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from orchestrator.errors import InvalidInput, TrackingError
from orchestrator.storage.addresses import reach_loopback, redacted
from orchestrator.storage.sweep_storage import paths_of

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
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
    reach_loopback()
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def default_uri(out: Path) -> str:
    """The SQLite database inside the sweep's folder."""
    return sqlite_uri(out.resolve() / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite database, by the absolute path of its file."""
    path = str(file)
    if {"?", "%"} & set(path):
        # With its slashes: MLflow would make a folder of the quoted name.
        path = f"/{quote(path[1:], safe='')}"
    return f"sqlite:///{path}"


def chosen_uri(out: Path, given: str | None) -> str:
    """The address to use: the one `given`, else `$MLFLOW_TRACKING_URI`, else the `default_uri`."""
    return given or os.environ.get(URI_VARIABLE) or default_uri(out)


def check_uri(uri: str) -> None:
    """`InvalidInput` for an address at which MLflow cannot keep runs."""
    scheme, separator, rest = uri.partition(":")
    kind = scheme.split("+")[0].lower()
    advice = (
        "Give --tracking-uri (or $MLFLOW_TRACKING_URI) a server (http://HOST:5000) or a database "
        "(sqlite:////FOLDER/mlflow.db, postgresql://HOST/NAME), or neither: then the sweep's "
        "folder has a database of its own."
    )
    plugins = {entry.name for entry in entry_points(group="mlflow.tracking_store")}
    if kind == "file" or (not separator and kind not in {*SERVERS, *plugins}):
        raise InvalidInput(
            f"the tracking address '{redacted(uri)}' is a folder, in which MLflow no longer keeps "
            f"runs. {advice}"
        )
    if kind not in {*DATABASES, *SERVERS, *plugins}:
        raise InvalidInput(f"unknown kind of tracking address '{redacted(uri)}'. {advice}")
    whole = urlsplit(uri).netloc if kind in ("http", "https") else rest.startswith("//")
    if kind == "sqlite":
        whole = rest.startswith("///") and rest != "///"
    if not whole and kind in (*DATABASES, "http", "https"):
        raise InvalidInput(f"the tracking address '{redacted(uri)}' is incomplete. {advice}")


def viewer(name: str, out: Path, uri: str) -> str:
    """Where to see the runs of sweep `name` at `uri`: a command to type, or a URL to open."""
    if not is_database(uri):
        return redacted(uri)
    return f"orchestrate ui {shlex.quote(name)}" + _option(out, uri)


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
    return Path(unquote(path)) if scheme == "sqlite" and path not in ("", ":memory:") else None


def follow_move(out: Path, uri: str) -> None:
    """Have a SQLite database name the artifacts beside it: it records where they were when it was
    made, which is another place once its folder was moved or copied.
    """
    file, root = sqlite_file(uri), artifact_root(out, uri)
    if file is None or not file.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_master").fetchall()
            if ("experiments",) in tables:
                _move_artifacts(database, root)
    except sqlite3.Error as error:
        raise unreachable(out, uri, error) from None


def _move_artifacts(database: sqlite3.Connection, root: str) -> None:
    """Replace the artifact folder of sweeps by `root`, in experiments and in their runs."""
    found = database.execute(
        "SELECT DISTINCT artifact_location FROM experiments"
        " WHERE name LIKE 'orchestrate/%' AND artifact_location LIKE '%/mlartifacts'"
    )
    for old in {place for (place,) in found} - {root}:
        length = len(old) + 1
        database.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?)"
            " WHERE substr(artifact_uri, 1, ?) = ?",
            (root, length, length, f"{old}/"),
        )
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (root, old)
        )
    database.commit()


def unreachable(out: Path, uri: str, reason: object) -> TrackingError:
    """The error of a failed exchange with MLflow: address, reason, next step; no secrets."""
    lines = redacted(str(reason), uri).strip().splitlines() or ["no reason given."]
    return TrackingError(
        f"tracking at {redacted(uri)} does not work: {_short(lines[0])} Nothing is lost: the "
        f"ledger has every result, and `{track_command(out, uri)}` writes what is missing."
    )


def track_command(out: Path, uri: str) -> str:
    """The command that writes to MLflow at `uri` what it lacks."""
    return f"orchestrate track {shlex.quote(paths_of(out).name)}{_option(out, uri)}"


def _short(text: str, most: int = 300) -> str:
    """The whole sentences at the beginning of a text, or its first words."""
    if len(text) <= most:
        return text if text.endswith(".") else f"{text}."
    end = text.rfind(". ", 0, most)
    return text[: end + 1] if end > 0 else f"{text[:most].rpartition(' ')[0]} …"


def _option(out: Path, uri: str) -> str:
    """The option that a command needs for `uri`; empty for the default address."""
    if uri == default_uri(out):
        return ""
    shown = redacted(uri)  # what is hidden cannot be typed, quoted or not
    return f" --tracking-uri {shlex.quote(uri) if shown == uri else shown}"
