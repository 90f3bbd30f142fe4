"""A cluster of one machine, and a laptop that can reach nothing of it but the dashboard's port."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.commands import environment, until

TOKEN = "5" * 64
_UP_S = 90
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Head:
    """The running cluster: its dashboard's address, the homes of its user and of the laptop's."""

    address: str
    home: Path
    laptop: Path
    data: Path

    def type(
        self, *words: str, seconds: float = 200, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """`orchestrate` on the laptop, to its end; output and errors come as one text."""
        return subprocess.run(
            [sys.executable, "-c", "from orchestrator.cli.main import main; main()", *words],
            env=self._environment() | variables,
            cwd=self.laptop,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        ours = {"HOME": str(self.laptop), "RAY_API_SERVER_ADDRESS": self.address, "COLUMNS": "150"}
        return {**_without_ray(environment(self.data)), **ours}

    def logs(self) -> str:
        """All that Ray has written of commands, as one text."""
        found = self.home.glob("ray/session_2*/logs/**/*")
        return "".join(path.read_text(errors="replace") for path in found if path.is_file())


@contextmanager
def head_node(data: Path, folder: Path) -> Iterator[Head]:
    """Starts Ray with a token, on loopback, as the cluster files do; nothing is left of it."""
    short = Path(tempfile.mkdtemp(prefix="ray"))  # the paths of Ray's sockets have 107 characters
    home, laptop, temporary = folder / "head", folder / "laptop", short / "ray"
    for user in (home, laptop):
        (user / ".ray").mkdir(parents=True)
        (user / ".ray" / "auth_token").write_text(TOKEN)
    (home / "venv").symlink_to(sys.prefix)
    (home / "ray").symlink_to(temporary)
    dashboard, gcs, client, agent = _free_ports(4)
    process = subprocess.Popen(
        [
            *(f"{sys.prefix}/bin/ray", "start", "--head", "--block", f"--port={gcs}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *("--node-ip-address=127.0.0.1", f"--ray-client-server-port={client}"),
            f"--dashboard-agent-listen-port={agent}",  # two heads on one machine
            *("--min-worker-port=0", "--max-worker-port=0", "--num-cpus=2"),
            *("--object-store-memory=100000000", f"--temp-dir={temporary}"),
        ],
        env={
            **_without_ray(environment(data)),
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",  # without the environment: its place must be found
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # this machine alone: loopback only
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_the_parent,
    )
    try:
        _wait_for(dashboard, process)
        yield Head(f"http://127.0.0.1:{dashboard}", home, laptop, data)
    finally:
        _end(process)
        shutil.rmtree(short, ignore_errors=True)


def _end_with_the_parent() -> None:
    """For a child process: SIGTERM when whoever started it has died, of whatever (`prctl`)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _without_ray(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith("RAY_")}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    def up() -> bool:
        assert process.poll() is None, "Ray did not start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(up, _UP_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """`ray start --block` ends its daemons, if it is given the time; theirs end with them."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
