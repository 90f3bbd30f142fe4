"""How much memory a device has left, and how much was used at most.

On the CPU it is the process that is counted, as Linux tells; where /proc does not exist, roughly.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS, _MACHINE = Path("/proc/self/status"), Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NEVER = 2**31 - 1  # bytes: the largest that it takes


def free(device: torch.device) -> int:
    """Bytes that this process could still take; on the CPU what the machine and its limits have."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    _give_back()
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_said(_MACHINE, "MemAvailable", machine), _left_in_group(machine))


def used(device: torch.device) -> int:
    """Bytes in use now: tensors on a GPU, the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _said(_PROCESS, "VmRSS", _most())


def peak(device: torch.device) -> int:
    """The most bytes in use since `forget_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _said(_PROCESS, "VmHWM", _most())


def forget_peak(device: torch.device) -> None:
    """Lets `peak` count anew, from what is in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    _give_back()
    with suppress(OSError):  # where it cannot be reset, widths are planned smaller
        Path("/proc/self/clear_refs").write_text("5")


def keep_freed() -> None:
    """Lets the tensors of a step on the CPU use the memory of the step before.

    glibc would give larger ones back to the system, which then clears every page of them anew. For
    the whole process; elsewhere than with glibc nothing changes.
    """
    libc = _glibc()
    if libc is not None:
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            libc.mallopt(threshold, _NEVER)


def _give_back() -> None:
    """Returns to the system what `keep_freed` kept: until then it counts as used."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def _said(path: Path, name: str, otherwise: int) -> int:
    """`Name:   123 kB` in bytes."""
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return otherwise


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _left_in_group(machine: int) -> int:
    """What the control group allows; all of the machine where there is none, or no limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        current = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return machine
    return max(int(limit) - current, 0) if limit.isdecimal() else machine
