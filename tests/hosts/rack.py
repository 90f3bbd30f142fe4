"""The rack of simulated hosts: network switch, disks, and whether this machine can run one.

All of it lives in namespaces of one process and ends with it, and with pytest too. Its addresses,
names and files cannot collide with those of the machine.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

BOOT = Path(__file__).with_name("boot.sh")
_SWITCH = """
mount -t tmpfs -o size=4g,mode=755 tmpfs "$0" && mkdir "$0/shared" &&
ip link add switch type bridge && ip link set switch up && touch "$0/up" && exec sleep infinity
"""
PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
    "pg_createcluster": "postgresql",
}
"""Command → the Debian package that provides it."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEMORY = 6 * 2**30
"""Bytes that three hosts with Ray and a small sweep need, with some to spare."""

_TRY = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
mkdir "$0/root/new" && rmdir "$0/root/new"
ip link add one type veth peer name other
ip link add switch type bridge
ip link set one master switch
"""
NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--propagation", "private")
"""The kinds of namespaces that a host has of its own."""
_T = TypeVar("_T")


def wait_for(
    what: str, ask: Callable[[], _T | None], seconds: float = 20, pause: float = 0.05
) -> _T:
    """Asks until the answer is true; `TimeoutError` names `what` is missing after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        if answer := ask():
            return answer
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(pause)


@functools.cache
def why_not() -> str:
    """What is missing for simulated hosts, in one line; empty if nothing is."""
    if os.geteuid() != 0:
        return "simulated hosts need root (namespaces, mounts)"
    missing = {PACKAGES[name] for name in PACKAGES if not shutil.which(name, path=PATH)}
    if missing:
        return f"simulated hosts need: apt-get install {' '.join(sorted(missing))}"
    if (free := _available_memory()) < MEMORY:
        return f"simulated hosts need {MEMORY / 2**30:.0f} GiB of memory, {free / 2**30:.1f} free"
    return _kernel_refuses()


def _available_memory() -> int:
    with open("/proc/meminfo") as lines:
        (line,) = (line for line in lines if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def _kernel_refuses() -> str:
    """Tries namespaces, an overlay of the root and a bridge; what fails is the reason."""
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["unshare", *NAMESPACES, "--fork", "bash", "-c", _TRY, folder],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": PATH},
        )
    if tried.returncode == 0:
        return ""
    said = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
    return f"this machine does not let root simulate hosts: {said[-1]}"


def child_of(pid: int) -> int | None:
    """The first child of a process, as this namespace counts."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[0]) if children else None


class Rack:
    """Switched on when made, `off` ends all that runs in it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rack-")
        self.spaces: set[str] = set()  # PID namespaces that existed in this rack
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net"]
        command += ["--propagation", "private", "--fork", "--kill-child", "bash", "-c", _SWITCH]
        self._outer = subprocess.Popen([*command, self._folder.name], env={"PATH": PATH})
        self._inner = wait_for("the rack", lambda: child_of(self._outer.pid))
        wait_for("the rack's disks", lambda: (self.disks / "up").exists())
        self._remember(self._inner)

    @property
    def disks(self) -> Path:
        """The hosts' disks, as seen from outside of the rack."""
        return Path(f"/proc/{self._inner}/root{self._folder.name}")

    def boot(
        self, name: str, addresses: Sequence[str], sshd: bool, shared: str, shown: Sequence[str]
    ) -> int:
        """Starts a host; returns the id of its process 1 as soon as it can be reached."""
        disk, port = f"{self._folder.name}/{name}", self._port(name)
        mac = "02:00:" + ":".join(f"{int(part):02x}" for part in addresses[0].split("."))
        script = ["bash", str(BOOT), name, disk, shared or "-", mac, ",".join(addresses)]
        inside = ["unshare", *NAMESPACES, "--fork", "--kill-child", *script]
        with (self.disks / f"{name}.log").open("w") as log:
            outer = subprocess.Popen(
                ["nsenter", *self._into("mount", "pid"), *inside, "yes" if sshd else "no", *shown],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": PATH},
            )
        unshare = wait_for(f"{name}'s namespaces", lambda: child_of(outer.pid))
        init = wait_for(f"{name}'s process 1", lambda: child_of(unshare))
        self._remember(init)
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(init))
        self._ip("link", "set", port, "master", "switch", "up")
        try:
            wait_for(f"{name} to come up", lambda: Path(f"/proc/{init}/root/run/up").exists())
        except TimeoutError as error:
            said = (self.disks / f"{name}.log").read_text()
            raise RuntimeError(f"{name} did not start: {said}") from error
        return init

    def power_off(self, init: int) -> None:
        """Kills process 1 of a host, and with it all its processes; waits until they are gone."""
        os.kill(init, signal.SIGKILL)
        wait_for("the host's end", lambda: not Path(f"/proc/{init}/root/run").exists())

    def off(self) -> None:
        """Ends everything; raises `RuntimeError` if any process outlives it."""
        self._outer.kill()
        self._outer.wait()
        try:
            wait_for("the rack's processes to end", lambda: not self.processes())
        except TimeoutError as error:
            raise RuntimeError(f"still running: {self.processes()}") from error
        finally:
            self._folder.cleanup()

    def processes(self) -> list[str]:
        """Command lines of all processes in the rack and its hosts."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and os.readlink(entry / "ns/pid") in self.spaces:
                    found.append((entry / "cmdline").read_text().replace("\0", " ") or entry.name)
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours
                continue
        return found

    def _remember(self, pid: int) -> None:
        self.spaces.add(os.readlink(f"/proc/{pid}/ns/pid"))

    def _into(self, *kinds: str) -> list[str]:
        return [f"--{kind}" for kind in (f"target={self._inner}", *kinds)]

    def _port(self, name: str) -> str:
        """The switch's end of a host's cable; 15 characters at most."""
        return f"to-{name[-12:]}"

    def _ip(self, *words: str) -> None:
        command = ["nsenter", f"--net=/proc/{self._inner}/ns/net", "ip", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH})
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
