"""What is on a simulated host's disk before it starts for the first time.

As much of a cloud's machine image as a cluster file expects: a user, an ssh daemon, an environment
with the project's dependencies (`~/venv`), and stand-ins for what no namespace can have: packages
are installed already, and the kernel's NFS server is a folder that the rack's hosts share.
PostgreSQL's programs are the machine's; "installing" them makes a cluster, as Debian's does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

USER = "ubuntu"
HOME = f"/home/{USER}"
SERVED = "/srv/served"
"""Where the folder that "NFS" carries from host to host lies on each of them."""

STAND_INS = {
    "sudo": """
user=root
while [[ $1 == -* ]]; do case $1 in -n) shift ;; -u) user=$2 && shift 2 ;; *) exit 1 ;; esac; done
[ "$user" = root ] && exec "$@"
exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@" """,
    "apt-get": """
echo "$@" >> /var/log/apt-get.calls
[[ "$* " == *"install "*" postgresql "* ]] || exit 0
version=$(ls /usr/lib/postgresql | sort -V | tail -1)
[ -e "/etc/postgresql/$version/main" ] || pg_createcluster "$version" main --start""",
    "dpkg": """
[ "$*" = "-s postgresql" ] && exec grep -qs "install.* postgresql" /var/log/apt-get.calls
exec /usr/bin/dpkg "$@" """,
    "exportfs": f"""
read -r folder _ < /etc/exports
mount --bind {SERVED} "$folder" && touch {SERVED}/.exported""",
    "mount": f"""
case "$*" in
  "-t nfs4 "*) test -e {SERVED}/.exported && exec /usr/bin/mount --bind {SERVED} "${{!#}}" ;;
  *) exec /usr/bin/mount "$@" ;;
esac""",
}
_EMPTY = ("etc/postgresql", "var/lib/postgresql")
"""What the machine's own databases are is no host's business."""
_SSHD = """
HostKey /etc/ssh/host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
MaxSessions 100
MaxStartups 100
"""
_PIP = """
[global]
no-index = true
no-build-isolation = false
disable-pip-version-check = true
"""
"""No network, and the environment's own setuptools. (pip reads this one option the wrong way
round: `no-build-isolation = false` switches the isolation off.)"""


@dataclass(frozen=True)
class Image:
    """What all hosts of a rack begin with."""

    public_key: str = ""
    private_key: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


def environments() -> list[str]:
    """The folders behind this interpreter: the virtual environment and the Python it is made of."""
    return sorted({sys.prefix, sys.base_prefix})


def prepare(disk: Path, name: str, image: Image) -> None:
    """Writes a host's files to its empty disk."""
    root = disk / "machine.upper"
    (disk / "machine.work").mkdir(parents=True)
    passwd, hosts = Path("/etc/passwd").read_text(), ["127.0.0.1 localhost"]
    _write(root / "etc/passwd", f"{USER}:x:0:0::{HOME}:/bin/bash\n{passwd}")
    hosts += [f"{address} {known}" for known, address in image.names.items()]
    _write(root / "etc/hosts", "\n".join(hosts) + "\n")
    _write(root / "etc/hostname", f"{name}\n")
    _write(root / "etc/pip.conf", _PIP)
    given = " ".join(f'"{key}={value}"' for key, value in image.environment.items())
    _write(root / "etc/ssh/sshd_config", _SSHD + (f"SetEnv {given}\n" if given else ""))
    key = root / "etc/ssh/host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    home = root / HOME.removeprefix("/")
    _write(home / ".bashrc", "")
    _write(home / ".ssh/authorized_keys", image.public_key, 0o600)
    if image.private_key:
        _write(home / ".ssh/id_ed25519", image.private_key, 0o600)
    (home / "venv").symlink_to(sys.prefix)
    (root / SERVED.removeprefix("/")).mkdir(parents=True)
    for folder in _EMPTY:
        (root / folder).mkdir(parents=True)
        os.setxattr(root / folder, "trusted.overlay.opaque", b"y")  # hides what lies below
    for command, body in STAND_INS.items():
        _write(root / "usr/local/sbin" / command, f"#!/bin/bash\n{body.strip()}\n", 0o755)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
