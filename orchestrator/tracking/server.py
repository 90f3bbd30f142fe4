"""`python -m orchestrator.tracking.server`: the MLflow server of a cluster, on its head.

It listens on loopback only. Runs go to a database (`DATABASE`, or `$MLFLOW_BACKEND_STORE_URI`: no
argument, since it may hold a password), artifacts to one folder or bucket. The command returns when
the server answers; typed again, it changes nothing. `--stop` ends the server, `--foreground`
becomes it, for containers and service managers.
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

from orchestrator.errors import OrchestrateError, TrackingError
from orchestrator.tracking import environment

DATABASE = "postgresql+psycopg:///mlflow?host=/var/run/postgresql"
"""Reached as the user that runs the server: PostgreSQL asks the kernel who that is."""
DATABASE_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
HOST, PORT = "127.0.0.1", 5000
HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
"""What a request may call the server; another name that leads here is somebody's trick."""
PATIENCE = 120.0
"""Seconds until it must answer; on an empty database it makes its tables first."""
GRACE = 10.0
PAUSE = 0.2
LAST_LINES = 15


def start(home: Path, artifacts: str, port: int = PORT) -> bool:
    """Have the server running and answering; whether it had to be started.

    Args:
        home: the folder of its log and lock, made if missing.
        artifacts: folder or address (`s3://…`) where artifacts are kept.
        port: on loopback.

    Raises:
        TrackingError: it does not start; quotes its log. Or the port is somebody else's.
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
    """The server as a command line; give it `variables`.

    One worker: it answers many requests at once in threads. Each more would take 0.3 GB.
    """
    listen = ["--host", HOST, "--port", str(port), "--allowed-hosts", HOSTS]
    served = ["--serve-artifacts", "--artifacts-destination", artifacts]
    quiet = ["--workers", "1", "--uvicorn-opts=--no-access-log"]
    return [sys.executable, "-m", "mlflow", "server", *listen, *served, *quiet]


def variables() -> dict[str, str]:
    """Its environment: the database, no runners of background work (a dozen processes), and not
    the address under which it is known to others.
    """
    settings = {**environment.VARIABLES, DATABASE_VARIABLE: DATABASE, **os.environ}
    settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    return {name: value for name, value in settings.items() if name != environment.URI_VARIABLE}


def log_file(home: Path) -> Path:
    """What the server prints."""
    return home / "server.log"


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
    """Whether no server runs; this process holds the lock then."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(home: Path, port: int, lives: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while _answers(port) != "OK":
        if not lives() or time.monotonic() > deadline:
            lines = log_file(home).read_text(errors="replace").splitlines()[-LAST_LINES:]
            said = environment.redact("\n".join(lines))
            raise TrackingError(
                f"MLflow's server does not answer at {HOST}:{port}. The last lines of "
                f"{log_file(home)}:\n{said}"
            )
        time.sleep(PAUSE)


def _answers(port: int) -> str | None:
    """What is said at the port about its health; None if nobody listens there."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{port}/health", timeout=5) as reply:
            return str(reply.read(20).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return f"error {error.code}"
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ConnectionRefusedError) else str(error.reason)
    except OSError as error:  # an answer that breaks off, a time-out: somebody is there
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
        print(_do(options))
    except OrchestrateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _do(options: argparse.Namespace) -> str:
    if options.foreground:
        os.execvpe(sys.executable, command(options.artifacts, options.port), variables())
    if options.stop:
        return f"MLflow's server {'has ended' if stop(options.home) else 'was not running'}"
    new = start(options.home, options.artifacts, options.port)
    return f"MLflow's server {'runs' if new else 'was running'}: http://{HOST}:{options.port}"


if __name__ == "__main__":
    main()
