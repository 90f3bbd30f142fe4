"""Which kind of file system a path lies on."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.")
"""How the names of file systems begin that several machines can mount."""


def filesystem(path: Path) -> str:
    """The kind of file system that `path`, or the nearest folder above it, lies on: ext4, nfs4, …

    Empty where the system does not say.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    mounts = (_mount(number, line, real) for number, line in enumerate(lines))
    return max(filter(None, mounts), default=(0, 0, ""))[2]


def is_network(kind: str) -> bool:
    """Whether a file system of this kind can be mounted by several machines."""
    return kind.startswith(NETWORK)


def _mount(number: int, line: str, path: str) -> tuple[int, int, str] | None:
    """Of a line of mountinfo that `path` lies below: depth, number (later ones hide), kind."""
    before, _, after = line.partition(" - ")
    escaped = before.split(" ")[4]  # \\040 stands for a space
    point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), escaped)
    inside = path == point or path.startswith(point.rstrip("/") + "/")
    return (len(point), number, after.split(" ")[0]) if inside else None
