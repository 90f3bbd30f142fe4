"""The rack: a switch, the hosts' disks, and the process whose end is the end of every host.

All of it lives in namespaces of the rack's own process, and dies with it, with pytest too. Nothing
on the machine can collide with it: neither addresses nor names nor files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.hosts.support import NAMESPACES, PATH

BOOT = Path(__file__).with_name("boot.sh")
_SWITCH = """
mount -t tmpfs -o size=4g,mode=755 tmpfs "$0" && mkdir "$0/shared" &&
ip link add switch type bridge && ip link set switch up && touch "$0/up" && exec sleep infinity
"""
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

    def cable(self, name: str, plugged: bool) -> None:
        """Pulls a host's network cable, or plugs it in again."""
        self._ip("link", "set", self._port(name), "up" if plugged else "down")

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
