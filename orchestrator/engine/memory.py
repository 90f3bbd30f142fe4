"""Free, used and peak memory of a device, and out-of-memory errors.

On the CPU the process is measured, from Linux's /proc; where that is absent, roughly.
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
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_NEVER = 2**31 - 1  # bytes: the largest threshold


def free(device: torch.device) -> int:
    """Bytes that this process can still allocate; on the CPU within the control group's limit."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    _trim()
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_read(_MACHINE, "MemAvailable", machine), _cgroup_free(machine))


def used(device: torch.device) -> int:
    """Bytes in use now: tensors on a GPU, the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _read(_PROCESS, "VmRSS", _max_rss())


def peak(device: torch.device) -> int:
    """The most bytes in use since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _read(_PROCESS, "VmHWM", _max_rss())


def reset_peak(device: torch.device) -> None:
    """Start `peak` again from what is in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    _trim()
    with suppress(OSError):  # where it cannot be reset, widths are planned smaller
        Path("/proc/self/clear_refs").write_text("5")


def keep_freed() -> None:
    """Reuse freed memory on the CPU from one step to the next, for the whole process.

    glibc would return large blocks to the system, which then clears every page again. No effect
    with another C library.
    """
    libc = _glibc()
    if libc is not None:
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            libc.mallopt(threshold, _NEVER)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the host has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text
    )


def _trim() -> None:
    """Return to the system what `keep_freed` kept, which counts as used until then."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def _read(path: Path, name: str, default: int) -> int:
    """The line `Name:   123 kB` of a file in bytes."""
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return default


def _max_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cgroup_free(machine: int) -> int:
    """Bytes left of the control group's limit; `machine` where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        current = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return machine
    return max(int(limit) - current, 0) if limit.isdecimal() else machine
