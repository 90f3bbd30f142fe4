"""Computers that a test can start, kill and cut off: the ones a cluster file is launched on."""

from __future__ import annotations

import ipaddress
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.hosts import image
from tests.hosts.image import HOME, USER, Image
from tests.hosts.rack import Rack

ROOT = Path(__file__).parents[2]
LAPTOP = "laptop"


@dataclass(frozen=True)
class Done:
    """A command that ended: exit code, all it printed, and how long it took."""

    code: int
    text: str
    seconds: float


class Hosts:
    """A laptop and some hosts in a network of their own, with an ssh key from one to the others.

    Each has its own addresses, processes, disk, home, /tmp and memory file system; the disk lasts
    until `down`. The laptop has the working tree and the ssh key, and no ssh daemon.
    """

    def __init__(
        self,
        *names: str,
        network: str = "10.77.0.0/24",
        first: int = 10,
        shared: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`names` get the `first` and the following addresses of `network`, the laptop its last.

        `shared` is where the common folder appears on every host, the laptop excepted.
        """
        space = ipaddress.ip_network(network)
        self.addresses = {name: str(space[first + i]) for i, name in enumerate(names)}
        self.addresses[LAPTOP] = str(space[-2])
        self._names, self._shared = names, shared
        self._environment = {"RAY_USAGE_STATS_ENABLED": "0", **(environment or {})}
        self._public: dict[str, tuple[str, ...]] = {}
        self._inits: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def up(self) -> None:
        """Starts the laptop and every host."""
        self._rack = Rack()
        try:
            self._image = Image(*self._key_pair(), self._environment, self.addresses)
            for name in (LAPTOP, *self._names):
                self.start(name)
        except BaseException:
            self.down()
            raise

    def add(self, name: str, *addresses: str, public_key: str) -> None:
        """Starts one more host, with these addresses, that opens to this ssh key too."""
        self.addresses[name], *others = addresses
        self._public[name] = tuple(others)
        keys = self._image.public_key + public_key + "\n"
        self._prepare(name, replace(self._image, public_key=keys))
        self.start(name)

    def start(self, name: str) -> None:
        """Switches a host on; its /tmp is empty then, its disk is as it was."""
        if not (self._rack.disks / name).exists():
            self._prepare(name, self._image)
        laptop = name == LAPTOP
        shown = [*image.environments(), *([str(ROOT)] if laptop else [])]
        addresses = [self.addresses[name], *self._public.get(name, ())]
        shared = "" if laptop else self._shared
        self._inits[name] = self._rack.boot(name, addresses, not laptop, shared, shown)

    def kill(self, name: str) -> None:
        """Switches a host off; its processes are killed."""
        self._rack.power_off(self._inits.pop(name))

    def run(
        self,
        name: str,
        command: str,
        *,
        check: bool = True,
        timeout: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Runs a shell command in a host's home (laptop: the repository), with ~/venv's programs.

        Raises `AssertionError` with what it printed if it fails, unless `check` is False, and
        `subprocess.TimeoutExpired` if it takes longer than `timeout` seconds.
        """
        # A file and not a pipe: what a command leaves running would keep a pipe open.
        output = self._rack.disks / f"{name}.out"
        started = time.monotonic()
        with output.open("w+") as file:
            process = self.popen(name, command, stdout=file.fileno(), environment=environment)
            try:
                code = process.wait(timeout)
            except BaseException:
                process.kill()
                print(output.read_text())
                raise
        done = Done(code, output.read_text(), time.monotonic() - started)
        assert not check or code == 0, f"{name}: {command}: exit code {code}\n{done.text}"
        return done

    def popen(
        self,
        name: str,
        command: str,
        *,
        stdout: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a shell command on a host, as `run` does; errors go where its output goes."""
        path = f"{HOME}/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"HOME": HOME, "USER": USER, "LANG": "C.UTF-8", "PATH": path, "TERM": "dumb"}
        variables |= self._environment | dict(environment or {})
        folder = str(ROOT) if name == LAPTOP else HOME
        entered = ["nsenter", f"--target={self._inits[name]}"]
        entered += ["--mount", "--uts", "--ipc", "--net", "--pid"]
        given = [f"{key}={value}" for key, value in variables.items()]
        return subprocess.Popen(
            [*entered, "env", "-i", "-C", folder, *given, "bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def path(self, name: str, inside: str) -> Path:
        """A file of a running host, as seen from outside of it."""
        return Path(f"/proc/{self._inits[name]}/root{inside}")

    def processes(self, name: str) -> list[str]:
        """Command lines of what runs on a host, its process 1 left out."""
        lines = self.run(name, "exec ps -N -p 1,$$ -o args=").text.splitlines()
        return [line for line in lines if line]

    @property
    def running(self) -> list[str]:
        """Names of the hosts that are switched on."""
        return list(self._inits)

    def down(self) -> None:
        """Switches everything off and leaves nothing; raises `RuntimeError` if something stays."""
        self._inits.clear()
        self._rack.off()

    def _prepare(self, name: str, base: Image) -> None:
        own = {name: self.addresses[name]}
        private = base.private_key if name == LAPTOP else ""
        filled = replace(base, names={**base.names, **own}, private_key=private)
        image.prepare(self._rack.disks / name, name, filled)

    def _key_pair(self) -> tuple[str, str]:
        key = self._rack.disks / "key"
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", USER, "-f", str(key)]
        subprocess.run(command, check=True)
        return key.with_suffix(".pub").read_text(), key.read_text()
