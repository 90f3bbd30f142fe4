"""Whether this machine can simulate hosts, and if not, why: the reason of a skipped test."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile

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
"""Command → Debian package that has it."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEMORY = 6 * 2**30
"""Bytes that three hosts with Ray and a small sweep take, with some to spare."""

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


NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--propagation", "private")
"""What a host has of its own."""
