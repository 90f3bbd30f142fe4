"""Whether tracking can be used, without writing or making anything there."""

from __future__ import annotations

import socket
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.cluster.doctor.records import Reach
from orchestrator.storage.addresses import redacted
from orchestrator.storage.sharing import filesystem, is_network
from orchestrator.tracking.locations import is_database, sqlite_file

SECONDS = 3.0
_OTHER = "--tracking-uri sqlite:///$HOME/mlflow.db, or a server"


def reach(uri: str) -> Reach:
    """Asks a server for its version, looks into a database; a few seconds at most."""
    where = redacted(uri)
    if uri.startswith(("http://", "https://")):
        return _server(uri, where)
    if not is_database(uri):
        return Reach(
            where,
            problem="is neither a server nor a database, and MLflow refuses folders",
            fix=f"give {_OTHER}",
        )
    file = sqlite_file(uri)
    return _database(uri, where) if file is None else _sqlite(file, where)


def _server(uri: str, where: str) -> Reach:
    start = "start it, or give another --tracking-uri (a sweep goes on without; then "
    fix = start + "`orchestrate track DIR` writes what is missing)"
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=SECONDS) as answer:
            return Reach(f"{where}, MLflow {answer.read(40).decode(errors='replace').strip()}")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or …_TOKEN)"
            return Reach(where, doubt=f"asks who you are (HTTP {error.code})", fix=fix)
        return Reach(where, problem=f"answers, but not as MLflow does (HTTP {error.code})", fix=fix)
    except (OSError, ValueError) as error:
        return Reach(where, problem=f"does not answer ({_why(error)})", fix=fix)


def _sqlite(file: Path, where: str) -> Reach:
    folder = next((place for place in file.absolute().parents if place.exists()), Path("/"))
    kind = filesystem(folder)
    if is_network(kind):
        doubt = f"SQLite on {kind} gets corrupted when two machines write"
        return Reach(where, doubt=doubt, fix=f"give {_OTHER}")
    if not file.exists():
        return Reach(f"{where}, made when the sweep starts")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        return Reach(
            where,
            problem=f"is no database of MLflow's ({error})",
            fix="move it away: `orchestrate track DIR` writes it again from the ledger",
        )
    return Reach(where)


def _database(uri: str, where: str) -> Reach:
    """Knocks first, since drivers wait for minutes; then connects, which makes nothing."""
    fix = "start it, or give another --tracking-uri"
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or (5432 if uri.startswith("postgres") else 3306)
        if host:
            socket.create_connection((host, port), timeout=SECONDS).close()
    except (OSError, ValueError) as error:
        return Reach(where, problem=f"does not answer ({_why(error)})", fix=fix)
    import sqlalchemy

    try:
        limit = {} if uri.startswith("mssql") else {"connect_timeout": int(SECONDS)}
        engine = sqlalchemy.create_engine(uri, connect_args=limit)
        with closing(engine.connect()):
            return Reach(where)
    except ImportError as error:
        package = error.name or "its driver"
        fix = '`pip install "psycopg[binary]"` where the command runs'
        if not uri.startswith("postgres"):
            fix = f"install {package} where the command runs"
        return Reach(where, problem=f"needs the package {package}", fix=fix)
    except sqlalchemy.exc.SQLAlchemyError as error:
        return Reach(where, problem=f"refuses ({_why(error)})", fix=fix)


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return redacted(text.strip().splitlines()[0].rstrip("."))
