"""MLflow's server: that of a cluster's head, and the interface of `orchestrate ui`.

`python -m orchestrator.tracking.server` starts the head's server, which listens on loopback only.
Runs go to a database (`DATABASE`, or `$MLFLOW_BACKEND_STORE_URI`: no argument, since it may hold a
password), artifacts to one folder or bucket. The command returns when the server answers; a second
call changes nothing. `--stop` ends the server. `--foreground` replaces this process by the server,
for containers and service managers.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import InvalidInput, OrchestrateError, TrackingError
from orchestrator.provenance import import_variables
from orchestrator.results.sweep_file import read_sweep
from orchestrator.storage.addresses import redacted
from orchestrator.storage.files import unlockable
from orchestrator.storage.sweep_storage import paths_of
from orchestrator.tracking import locations

DATABASE = "postgresql+psycopg:///mlflow?host=/var/run/postgresql"
"""Reached as the user that runs the server: PostgreSQL asks the kernel who that is."""
DATABASE_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without this MLflow starts a dozen processes for background work."""
HOST, PORT = "127.0.0.1", 5000
HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
"""Allowed `Host` headers; others are refused, which prevents DNS rebinding."""
UVICORN = f"--app-dir {os.devnull}"
"""By default uvicorn imports from the current folder first."""
TIMEOUT = 120.0
"""Seconds until the server must answer; on an empty database it first creates its tables."""
GRACE = 10.0
PAUSE = 0.2
LAST_LINES = 15
INTERRUPTED = 130


def start(home: Path, artifacts: str, port: int = PORT) -> bool:
    """Have the server running and answering; whether it had to be started.

    Args:
        home: the folder of its log and lock, created if missing.
        artifacts: folder or address (`s3://…`) where artifacts are kept.
        port: on loopback.

    Raises:
        TrackingError: the server does not start (quotes its log), or another program has the port.
    """
    handle = _open(home)
    try:
        if not _free(handle):
            _wait(home, port, lambda: not _free(handle))
            return False
        if _answers(port) is not None:
            raise TrackingError(
                f"port {port} of {HOST} is taken by a program that is not this server. End that, "
                "or give another --port and set MLFLOW_TRACKING_URI to it."
            )
        server = _launch(home, handle, artifacts, port)
        _wait(home, port, lambda: server.poll() is None)
        return True
    finally:
        os.close(handle)


def stop(home: Path) -> bool:
    """End the server and wait until it has ended; whether there was one."""
    handle = _open(home)
    try:
        if _free(handle):
            return False
        group = int(os.pread(handle, 20, 0))
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
            deadline = time.monotonic() + GRACE
            while not _free(handle) and time.monotonic() < deadline:
                time.sleep(PAUSE)
        return True
    finally:
        os.close(handle)


def command(artifacts: str, port: int = PORT) -> list[str]:
    """The command line of the head's server; run it with the environment `variables()`."""
    listen = ["--host", HOST, "--port", str(port), "--allowed-hosts", HOSTS]
    served = ["--serve-artifacts", "--artifacts-destination", artifacts]
    # One worker answers many requests in threads; each further one takes 0.3 GB.
    quiet = ["--workers", "1", f"--uvicorn-opts=--no-access-log {UVICORN}"]
    return [sys.executable, "-m", "mlflow", "server", *listen, *served, *quiet]


def variables() -> dict[str, str]:
    """The environment of the head's server: with the database, without `MLFLOW_TRACKING_URI`."""
    settings = {**locations.VARIABLES, DATABASE_VARIABLE: DATABASE, **os.environ, **NO_JOBS}
    settings |= import_variables()
    return {name: value for name, value in settings.items() if name != locations.URI_VARIABLE}


def log_file(home: Path) -> Path:
    """The output of the head's server."""
    return home / "server.log"


def serve(out: Path, uri: str, host: str = HOST, port: int = PORT) -> int:
    """Serve MLflow's interface until its server ends or Ctrl-C; the exit code (130 after Ctrl-C).

    No process of the server is left when this returns. Errors: see `ui_command`.
    """
    command = ui_command(out, uri, host, port)
    locations.follow_move(out, uri)
    # The address is no argument: everybody may read those, and it may hold a password.
    settings = {**os.environ, **locations.VARIABLES, **NO_JOBS, DATABASE_VARIABLE: uri}
    settings |= import_variables()
    # A session of its own: Ctrl-C would make both of MLflow's processes print a traceback.
    server = subprocess.Popen(command, env=settings, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ui_command(out: Path, uri: str, host: str = HOST, port: int = PORT) -> list[str]:
    """A command line that serves MLflow's interface over the database at `uri`; see `serve`.

    `InvalidInput` when `out` holds no sweep or there is no such port; `TrackingError` when `uri` is
    a server (which has an interface of its own) or a database file that does not exist.
    """
    if not 1 <= port <= 65_535:
        raise InvalidInput(f"--port is {port}; allowed: 1 to 65535.")
    locations.check_uri(uri)
    read_sweep(paths_of(out))
    if not locations.is_database(uri):
        raise TrackingError(
            f"'{redacted(uri)}' is a tracking server with an interface of its own: open that "
            "address in a browser."
        )
    file = locations.sqlite_file(uri)
    if file is not None and not file.is_file():
        raise TrackingError(
            f"there is no MLflow database at '{file}' yet; `{locations.track_command(out, uri)}` "
            "writes it from the ledger."
        )
    server = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    root = locations.artifact_root(out, uri)
    artifacts = ["--default-artifact-root", root, "--no-serve-artifacts"]
    return [*server, "--workers", "1", f"--uvicorn-opts={UVICORN}", *artifacts]


def _launch(home: Path, handle: int, artifacts: str, port: int) -> subprocess.Popen[bytes]:
    if "://" not in artifacts:
        Path(artifacts).mkdir(parents=True, exist_ok=True)
    with log_file(home).open("ab") as log:
        server = subprocess.Popen(
            command(artifacts, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables(),
            cwd=home,
            pass_fds=(handle,),  # holds the lock for as long as it lives
            start_new_session=True,  # stays when the ssh session ends
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{server.pid}\n".encode(), 0)
    return server


def _open(home: Path) -> int:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(log_file(home), os.O_WRONLY | os.O_CREAT, 0o600))
    return os.open(home / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _free(handle: int) -> bool:
    """Whether no server runs; this process holds the lock then.

    `flock` and no library: the server inherits the open file, and with it the lock.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unlockable(Path(os.readlink(f"/proc/self/fd/{handle}")).parent, error) from error
    return True


def _wait(home: Path, port: int, lives: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while _answers(port) != "OK":
        if not lives() or time.monotonic() > deadline:
            lines = log_file(home).read_text(errors="replace").splitlines()[-LAST_LINES:]
            output = redacted("\n".join(lines))
            raise TrackingError(
                f"MLflow's server does not answer at {HOST}:{port}. The last lines of "
                f"{log_file(home)}:\n{output}"
            )
        time.sleep(PAUSE)


def _answers(port: int) -> str | None:
    """What the health check at the port answers; None if no process listens there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{port}/health", timeout=5) as reply:
            return str(reply.read(20).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return f"error {error.code}"
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ConnectionRefusedError) else str(error.reason)
    except OSError as error:  # a truncated answer or a time-out: some process listens
        return str(error)


def main() -> None:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(prog="orchestrator.tracking.server", description=__doc__)
    parser.add_argument("--artifacts", help="folder or address where artifacts are kept")
    parser.add_argument("--port", type=int, default=PORT, help="on loopback [default: 5000]")
    where = "folder of the server's log and lock [default: ~/mlflow]"
    parser.add_argument("--home", type=Path, default=Path.home() / "mlflow", help=where)
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--stop", action="store_true", help="end the server")
    ends.add_argument("--foreground", action="store_true", help="become the server")
    options = parser.parse_args()
    if not options.stop and not options.artifacts:
        parser.error("--artifacts is needed")
    try:
        if options.foreground:
            os.execvpe(sys.executable, command(options.artifacts, options.port), variables())
        if options.stop:
            print(f"MLflow's server {'has ended' if stop(options.home) else 'was not running'}")
        else:
            new = "runs" if start(options.home, options.artifacts, options.port) else "was running"
            print(f"MLflow's server {new}: http://{HOST}:{options.port}")
    except OrchestrateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
