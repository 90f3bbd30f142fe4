"""Probes this machine and, with an address, every node of a cluster, all at once."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.cluster.doctor.probe import (
    PROBE_SECONDS,
    SECONDS,
    probe_machine,
    start_probe,
)
from orchestrator.cluster.doctor.records import (
    DoctorOptions,
    Inspection,
    Machine,
    ProbeRequest,
    TrackingStatus,
)
from orchestrator.data.prepared.store import presence
from orchestrator.errors import InvalidInput, StorageError
from orchestrator.storage.addresses import redacted
from orchestrator.storage.files import open_regular, reason
from orchestrator.storage.sharing import (
    SharedCheck,
    filesystem,
    is_network,
    is_uri,
    short_error,
)
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tracking.locations import is_database, sqlite_file

NODE_SECONDS = SECONDS + 30
"""Time limit for a node: torch's own, and that of starting a process."""
_CLOCK_SECONDS = 10.0
_TRACKING_SECONDS = 3.0
_START = "start it, or give another --tracking-uri"
_OTHER_URI = "--tracking-uri sqlite:///$HOME/mlflow.db, or a server"


def inspect(options: DoctorOptions) -> Inspection:
    """Collect all reports. Leaves no file and no process.

    Raises `BackendError` if the cluster cannot be reached, `InvalidInput` for a malformed address.
    """
    suite, out = options.suite, options.out
    with contextlib.ExitStack() as stack:
        nodes = _connect(options.address, stack)
        shared, problem = _leave_marker(out, stack)
        data, _ = _leave_marker(_unprepared_root(options) if nodes else "", stack)
        request = ProbeRequest(
            out=out,
            out_marker=shared.marker if shared else None,
            data_root=options.data_root,
            data_marker=data.marker if data else None,
            store=suite.store if suite else "",
            tasks=suite.tasks if suite else (),
            backbone=options.backbone,
        )
        uri = options.tracking_uri
        tracking = start_probe(PROBE_SECONDS, tracking_status, uri) if uri else None
        here = start_probe(NODE_SECONDS, probe_machine, request)
        machines = _probe_nodes(request, nodes, shared, data) if nodes else ()
        return Inspection(
            **vars(options),
            here=Machine("this machine", here()),
            nodes=machines,
            out_kind=_kind(out),
            out_problem=problem,
            locks=shared.locks if shared else "",
            tracking=_answered(uri, tracking) if tracking else None,
        )


def absolute_location(paths: SweepPaths) -> str:
    """A sweep's location as other machines must find it; `InvalidInput` for a file."""
    if paths.uri:
        return paths.uri
    try:
        path, wrong = start_probe(PROBE_SECONDS, _resolved, paths.out)()
    except TimeoutError as error:
        raise StorageError(f"--out '{paths.out}': {error}. Is what it lies on mounted?") from None
    if wrong:
        raise InvalidInput(f"--out '{paths.out}' is a file; name a folder, or s3://BUCKET/PATH.")
    return str(path)


def _resolved(out: Path) -> tuple[Path, bool]:
    """The absolute path, and whether something else than a folder is there."""
    path = out.expanduser().resolve()
    return path, path.exists() and not path.is_dir()


def _kind(out: str) -> str:
    """The file system of the output folder; empty if there is none, or if it does not answer."""
    if not out or is_uri(out):
        return ""
    try:
        return start_probe(PROBE_SECONDS, filesystem, Path(out))()
    except TimeoutError:
        return ""


def _answered(uri: str, tracking: Callable[[], TrackingStatus]) -> TrackingStatus:
    try:
        return tracking()
    except TimeoutError as error:
        return TrackingStatus(redacted(uri), f"does not answer ({error})", fix=_START)


def _connect(address: str | None, stack: contextlib.ExitStack) -> Any:
    """The nodes of the cluster, which stays connected; None without an address."""
    if address is None:
        return None
    from orchestrator.backends import ray_settings

    ray_settings.apply(address)
    from orchestrator.backends.ray import cluster

    stack.enter_context(cluster.connected(cluster.Cluster(address)))
    return cluster.nodes()


def _leave_marker(out: str, stack: contextlib.ExitStack) -> tuple[SharedCheck | None, str]:
    """The marker in `out`, or why none could be written."""
    if not out:
        return None, ""
    check = SharedCheck(out)
    try:
        start_probe(PROBE_SECONDS, check.__enter__)()
    except OSError as error:  # a TimeoutError too
        return None, short_error(error)
    stack.push(lambda *_: start_probe(PROBE_SECONDS, check.__exit__)())
    return check, ""


def _unprepared_root(options: DoctorOptions) -> str:
    """The folder in which the sweep will prepare data for all nodes; empty if it has all it may
    need, or sends it through an object store.
    """
    if options.suite is None or is_uri(options.out):
        return ""
    given = (options.suite.store, options.suite.tasks, options.data_root)
    try:
        found = start_probe(PROBE_SECONDS, presence, *given)()
    except TimeoutError:
        return ""  # this machine's own probe of the data says so
    return "" if all(task.fingerprint for task in found) else str(options.data_root)


def _probe_nodes(
    request: ProbeRequest, found: Any, shared: SharedCheck | None, data: SharedCheck | None
) -> tuple[Machine, ...]:
    from orchestrator.backends.ray import cluster

    answers = cluster.ask(probe_machine, request, of=found, seconds=NODE_SECONDS)
    ahead = cluster.clocks([answer.node for answer in answers if answer.value], _CLOCK_SECONDS)
    machines = []
    for answer in answers:
        probe = answer.value
        out_reply, data_reply = (probe.out_reply, probe.data_reply) if probe else (None, None)
        machine = Machine(
            name=answer.node.name,
            probe=probe,
            trouble=answer.trouble,
            ray_gpus=answer.node.gpus,
            out_problem=shared.confirm(out_reply) if shared and out_reply else "",
            data_problem=data.confirm(data_reply) if data and data_reply else "",
            ahead=ahead.get(answer.node.name),
        )
        machines.append(machine)
    return tuple(machines)


def tracking_status(uri: str) -> TrackingStatus:
    """Ask a server for its version, or open a database read-only; takes a few seconds at most."""
    where = redacted(uri)
    if uri.startswith(("http://", "https://")):
        return _server_status(uri, where)
    if not is_database(uri):
        problem = "is neither a server nor a database, and MLflow refuses folders"
        return TrackingStatus(where, problem, fix=f"give {_OTHER_URI}")
    file = sqlite_file(uri)
    return _database_status(uri, where) if file is None else _sqlite_status(file, where)


def _server_status(uri: str, where: str) -> TrackingStatus:
    fix = f"{_START} (a sweep goes on without; then `orchestrate track DIR` writes what is missing)"
    version_of = f"{uri.rstrip('/')}/version"
    try:
        with urllib.request.urlopen(version_of, timeout=_TRACKING_SECONDS) as answer:
            version = answer.read(40).decode(errors="replace").strip()
            return TrackingStatus(f"{where}, MLflow {version}")
    except urllib.error.HTTPError as error:
        status = f"(HTTP {error.code})"
        if error.code in (401, 403):
            fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or …_TOKEN)"
            return TrackingStatus(where, risk=f"requires authentication {status}", fix=fix)
        return TrackingStatus(where, problem=f"is not an MLflow server {status}", fix=fix)
    except (OSError, ValueError) as error:
        return TrackingStatus(where, problem=f"does not answer ({_reason(error, uri)})", fix=fix)


def _sqlite_status(file: Path, where: str) -> TrackingStatus:
    folder = next((path for path in file.absolute().parents if path.exists()), Path("/"))
    kind = filesystem(folder)
    if is_network(kind):
        risk = f"SQLite on {kind} gets corrupted when two machines write"
        return TrackingStatus(where, risk=risk, fix=f"give {_OTHER_URI}")
    if not file.exists():
        return TrackingStatus(f"{where}, created when the sweep starts")
    try:
        read_only = f"{file.absolute().as_uri()}?mode=ro"
        open_regular(file).close()  # SQLite would wait at a pipe for ever
        with contextlib.closing(sqlite3.connect(read_only, uri=True)) as opened:
            opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        fix = "move it away: `orchestrate track DIR` writes it again from the ledger"
        return TrackingStatus(where, f"is not an MLflow database ({error})", fix=fix)
    return TrackingStatus(where)


def _database_status(uri: str, where: str) -> TrackingStatus:
    """Try the port first, since drivers wait for minutes; then connect, which creates nothing."""
    import sqlalchemy

    try:
        parts = sqlalchemy.make_url(uri)
        host, port = parts.host, parts.port or (5432 if uri.startswith("postgres") else 3306)
        if host:
            socket.create_connection((host, port), timeout=_TRACKING_SECONDS).close()
    except sqlalchemy.exc.ArgumentError:
        problem = "is no address of a database: SCHEME://USER:PASSWORD@HOST:PORT/NAME"
        return TrackingStatus(where, problem, fix=f"give {_OTHER_URI}")
    except (OSError, ValueError) as error:
        return TrackingStatus(where, f"does not answer ({_reason(error, uri)})", fix=_START)
    try:
        limit = {} if uri.startswith("mssql") else {"connect_timeout": int(_TRACKING_SECONDS)}
        engine = sqlalchemy.create_engine(uri, connect_args=limit)
        with contextlib.closing(engine.connect()):
            return TrackingStatus(where)
    except ImportError as error:
        package = error.name or "its driver"
        fix = (
            '`pip install "psycopg[binary]"`'
            if uri.startswith("postgres")
            else f"install {package}"
        )
        problem = f"needs the package {package}"
        return TrackingStatus(where, problem, fix=f"{fix} where the command runs")
    except sqlalchemy.exc.SQLAlchemyError as error:
        return TrackingStatus(where, f"refuses ({_reason(error, uri)})", fix=_START)


def _reason(error: Exception, uri: str) -> str:
    return redacted(reason(getattr(error, "reason", None) or error), uri)
