"""What a person types on the laptop, from `ray up` to `ray down`, and what they would look at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.hosts.hosts import LAPTOP, Done, Hosts
from tests.hosts.image import HOME
from tests.hosts.rack import wait_for

FILE = "~/cluster.yaml"
STRANGER = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
_RAY = re.compile(r"gcs_server|^ray::|/ray/|mlflow|orchestrate")


@dataclass(frozen=True)
class Launch:
    """A cluster file, filled in, on the laptop of `hosts`."""

    hosts: Hosts
    text: str

    def up(self, *options: str) -> Done:
        """`ray up`, the first time with a new token."""
        self.hosts.path(LAPTOP, f"{HOME}/cluster.yaml").write_text(self.text)
        self.laptop("test -e ~/.ray/auth_token || (umask 077; ray get-auth-token --generate)")
        return self.laptop(f"RAY_AUTH_MODE=token ray up -y {' '.join(options)} {FILE}", 240)

    def exec(self, command: str, seconds: float = 60, check: bool = True) -> str:
        """`ray exec`: what a command on the head printed, the launcher's own notes left out."""
        done = self.laptop(f"ray exec {FILE} '{command}' 2>/dev/null", seconds, check)
        return "\n".join(line for line in done.text.splitlines() if not re.match(r"\d{4}-", line))

    def laptop(self, command: str, seconds: float = 60, check: bool = True) -> Done:
        """Any command on the laptop; prints it with its time, for the log of the launch."""
        done = self.hosts.run(LAPTOP, command, timeout=seconds, check=check)
        print(f"{done.seconds:6.1f} s  {command}")
        return done

    def wait_for_nodes(self, *names: str, seconds: float = 150) -> None:
        """Until these hosts are nodes. Asking Ray is dear: their processes are looked at first."""
        for name in names:
            runs = partial(running, self.hosts, name, "raylet")
            wait_for(f"Ray to start on {name}", runs, seconds, pause=1)
        wait_for(f"{names} to join", lambda: self.nodes() >= len(names), seconds, pause=2)

    def nodes(self) -> int:
        """How many nodes `ray status` lists as active or idle."""
        said = self.exec("ray status", check=False)
        active = re.search(r"^Active:\n(.*?)^Pending:", said, flags=re.MULTILINE | re.DOTALL)
        return sum(map(int, re.findall(r"^ (\d+) ", active[1], re.MULTILINE))) if active else 0

    def fetch(self, remote: str) -> Path:
        """Brings a folder of the head home; where it is, as the test sees it."""
        self.laptop(f"ray rsync-down {FILE} {remote}/ ~/fetched/", 60)
        return self.hosts.path(LAPTOP, f"{HOME}/fetched")

    def token(self) -> str:
        """The cluster's shared secret."""
        return self.hosts.path(LAPTOP, f"{HOME}/.ray/auth_token").read_text().strip()


def running(hosts: Hosts, name: str, program: str) -> bool:
    """Whether a program of this name runs on a host."""
    return any(line.split(" ")[0].endswith(f"/{program}") for line in hosts.processes(name))


def left_running(hosts: Hosts) -> dict[str, list[str]]:
    """What of Ray or the project runs on the hosts; those with nothing are left out."""
    found = {
        name: [line for line in hosts.processes(name) if _RAY.search(line)]
        for name in hosts.running
    }
    return {name: lines for name, lines in found.items() if lines}


def code_on(hosts: Hosts, name: str) -> Path:
    """The folder that `import orchestrator` reads on a host, as the host names it."""
    ask = "~/venv/bin/python -c 'import orchestrator; print(orchestrator.__file__)'"
    return Path(hosts.run(name, ask).text.strip()).parent


def answers_on_loopback(hosts: Hosts, name: str) -> str:
    """What the dashboard says to a process of the same host that has no token."""
    ask = 'import urllib.request as web; web.urlopen("http://127.0.0.1:8265/api/jobs/")'
    return hosts.run(name, f"python -c '{ask}'", check=False).text


def said_on_loopback(hosts: Hosts, name: str, port: int, path: str) -> str:
    """What is answered to a process of the same host at a port of its loopback."""
    url = f"http://127.0.0.1:{port}/{path}"
    ask = f'import urllib.request as web; print(web.urlopen("{url}").read().decode())'
    return hosts.run(name, f"python -c '{ask}'").text.strip()


def listeners(hosts: Hosts, name: str) -> set[str]:
    """The addresses with ports, like `127.0.0.1:5000`, at which something listens on a host."""
    lines = hosts.run(name, "ss -ltnH").text.splitlines()
    return {line.split()[3] for line in lines}


def open_to_others(hosts: Hosts, name: str, port: int) -> bool:
    """Whether a port of this host answers on its network address."""
    address = hosts.addresses[name]
    knock = f"timeout 3 bash -c 'echo > /dev/tcp/{address}/{port}'"
    return hosts.run(LAPTOP, knock, check=False).code == 0
