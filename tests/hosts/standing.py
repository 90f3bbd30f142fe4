"""A Ray cluster that stands while tests come and go, on hosts that they may kill.

Started by hand (`ray start`), not by `ray up`: launches have tests of their own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.hosts import ROOT, Hosts
from tests.hosts.image import HOME
from tests.hosts.rack import child_of, wait_for

SHARED = "/mnt/shared"
NAMES = ("head", "worker1", "worker2")
CODE, DATA = f"{HOME}/code", f"{SHARED}/data"
DATABASE = f"{HOME}/mlflow.db"
PORT = 6379
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "PYTHONPATH": CODE,
    "ORCHESTRATE_DATA": DATA,
    "OMP_NUM_THREADS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
}


def _tree(pid: int) -> list[int]:
    """A process and its descendants, the youngest last."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _tree(int(child)))]


@dataclass(frozen=True)
class Command:
    """An `orchestrate` that runs on a host; `pid` as this process counts."""

    host: str
    process: subprocess.Popen[str]
    output: Path
    pid: int

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.process.poll() is not None

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    def signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if not self.ended:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to it and to all that it started."""
        for pid in _tree(self.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(20)

    def wait(self, seconds: float = 180) -> int:
        """Its exit code; `TimeoutError` with what it printed if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            raise TimeoutError(f"{self.host}: not done after {seconds:g} s:\n{self.text}") from None


class Standing:
    """A head, a worker, and a spare host without Ray; each has one core of Ray's, hence one pool.

    Use it as a context. `head`, `worker` and `spare` say who is what now.
    """

    def __init__(self, data: Path) -> None:
        """`data` is a prepared store."""
        self._data = data
        self.hosts = Hosts(*NAMES, shared=SHARED, environment=_ENVIRONMENT)
        self.head, self.worker, self.spare = NAMES
        # Not on the hosts' disk, which a test may fill up.
        self._said = tempfile.TemporaryDirectory(prefix="said-")
        self._commands = 0

    def __enter__(self) -> Standing:
        self.hosts.up()
        try:
            shutil.copytree(self._data, self.shared / "data")
            token = secrets.token_hex(32)
            for name in NAMES:
                self._install(name, token)
            self.begin()
            self.join(self.worker)
        except BaseException:
            self.hosts.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hosts.down()
        self._said.cleanup()

    @property
    def shared(self) -> Path:
        """The folder that all hosts see, as seen from outside; it outlives every host."""
        return self.hosts._rack.disks / "shared"

    def folder(self, out: str) -> Path:
        """A sweep's folder, as seen from outside."""
        return self.shared / out

    def begin(self) -> None:
        """Starts Ray on the head."""
        self._ray(self.head, "--head", f"--port={PORT}", "--include-dashboard=false")

    def join(self, name: str) -> None:
        """Starts Ray on a host, as a worker of the head."""
        self._ray(name, f"--address={self.hosts.addresses[self.head]}:{PORT}")

    def leave(self, name: str) -> None:
        """Ends Ray on a host."""
        self.hosts.run(name, "ray stop --force", check=False)

    def change_head(self) -> None:
        """After the head's end the spare is the head, and the worker joins it."""
        old = self.head
        self.leave(self.worker)
        self.head, self.spare = self.spare, old
        self.hosts.start(self.spare)
        database = self.hosts.path(self.spare, DATABASE)
        if database.exists():
            shutil.copyfile(database, self.hosts.path(self.head, DATABASE))
        self.begin()
        self.join(self.worker)

    def limit_disk(self, size: int) -> None:
        """Limits the disk that all hosts and the shared folder are on, to `size` bytes."""
        rack = self.hosts._rack
        command = ["nsenter", f"--target={rack._inner}", "--mount"]
        command += ["mount", "-o", f"remount,size={size}", rack._folder.name]
        subprocess.run(command, check=True)

    def start(self, command: str, host: str = "") -> Command:
        """Starts a command (one program, without shell syntax) on a host, the head by default."""
        name = host or self.head
        self._commands += 1
        output = Path(self._said.name) / str(self._commands)
        with output.open("w") as file:
            # A shell that runs the tests in the background has its children ignore Ctrl-C.
            entered = f"exec env --default-signal=INT {command}"
            process = self.hosts.popen(name, entered, stdout=file.fileno())
        pid = wait_for("the command", lambda: child_of(process.pid) or process.poll())
        return Command(name, process, output, pid)

    def run(self, command: str, host: str = "", code: int = 0, seconds: float = 180) -> str:
        """Runs a command on a host to its end, which must have this exit code; what it printed."""
        running = self.start(command, host)
        ended = running.wait(seconds)
        assert ended == code, f"{command}: exit code {ended}\n{running.text}"
        return running.text

    def pids(self, host: str, title: str) -> list[int]:
        """Processes of a host whose command line begins with `title`, as the host counts them."""
        lines = self.hosts.run(host, "exec ps -e -o pid=,args=").text.splitlines()
        found = (line.strip().partition(" ") for line in lines)
        return [int(pid) for pid, _, args in found if args.strip().startswith(title)]

    def runs_on(self, host: str, pid: int) -> bool:
        """Whether a process, as this one counts, is on the host."""
        ours = os.readlink(self.hosts.path(host, "/proc/1/ns/pid"))
        return Path(f"/proc/{pid}").exists() and os.readlink(f"/proc/{pid}/ns/pid") == ours

    def kill(self, host: str, pids: Sequence[int]) -> None:
        """SIGKILL to processes of a host."""
        self.hosts.run(host, f"kill -KILL {' '.join(map(str, pids))}")

    def _install(self, name: str, token: str) -> None:
        """The working tree's three packages as they are now, and the cluster's secret."""
        code = self.hosts.path(name, CODE)
        for package in ("adapters", "orchestrator", "search_spaces"):
            shutil.copytree(ROOT / package, code / package)
        secret = self.hosts.path(name, f"{HOME}/.ray/auth_token")
        secret.parent.mkdir(mode=0o700)
        secret.touch(mode=0o600)
        secret.write_text(token)

    def _ray(self, name: str, *options: str) -> None:
        # One core each: more pools than the machine has cores would only take turns.
        limits = "--num-cpus=1 --object-store-memory=100000000 --disable-usage-stats"
        core = NAMES.index(name) % len(os.sched_getaffinity(0))
        self.hosts.run(name, f"taskset -c {core} ray start {limits} {' '.join(options)}")
