"""Memory on the CPU: what is counted, and what a pool's process keeps instead of giving it back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from orchestrator.engine import memory
from tests.engine.worlds import CPU

MIB = 2**20
GLIBC = pytest.mark.skipif(memory._glibc() is None, reason="mallopt is glibc's")
SCRIPT = """
import resource, statistics, torch
from orchestrator.engine import memory
cpu = torch.device("cpu")
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(48 * 2**20, dtype=torch.uint8) for _ in range(2)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def faults():  # the median: the heap grows in up to eight steps before it has room for them
    return int(statistics.median(step() for _ in range(60)))
given_back = faults()
memory.keep_freed()
print(faults(), given_back)
memory.reset_peak(cpu)
before = memory.used(cpu)
taken = torch.ones(300 * 2**20, dtype=torch.uint8)
del taken
kept = memory.used(cpu)
memory.reset_peak(cpu)
print((kept - before) // 2**20, (memory.used(cpu) - before) // 2**20)
print((memory.peak(cpu) - before) // 2**20)
"""


def test_memory_is_counted() -> None:
    memory.reset_peak(CPU)
    before, free = memory.peak(CPU), memory.free(CPU)
    taken = torch.ones(200 * MIB, dtype=torch.uint8)
    assert memory.peak(CPU) - before > 150 * MIB
    del taken
    assert MIB < memory.used(CPU) <= memory.peak(CPU)
    assert 2**28 < free < 2**44


@GLIBC
def test_freed_memory_is_reused_and_counts_neither_as_used_nor_for_the_next_peak() -> None:
    """Faults are pages that the system had to clear, in a step of 96 MiB."""
    command = [sys.executable, "-c", SCRIPT]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    faults, given_back, kept, used, peak = map(int, shown.split())
    assert 10 * faults < given_back
    assert kept > 250
    assert used < 50
    assert peak < 50
