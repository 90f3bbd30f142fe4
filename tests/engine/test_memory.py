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
PAGES = """
import resource, sys, torch
from orchestrator.engine import memory
if sys.argv[1] == "keep":
    memory.keep_freed()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    kept = [torch.ones(48 * 2**20, dtype=torch.uint8) for _ in range(2)]
for _ in range(12): step()  # until the heap has places for them
before = faults()
for _ in range(4): step()
print(faults() - before)
"""


def test_memory_is_counted() -> None:
    memory.reset_peak(CPU)
    before, free = memory.peak(CPU), memory.free(CPU)
    taken = torch.ones(200 * MIB, dtype=torch.uint8)
    assert memory.peak(CPU) - before > 150 * MIB
    del taken
    assert MIB < memory.used(CPU) <= memory.peak(CPU)
    assert 2**28 < free < 2**44


def faults(how: str) -> int:
    """Pages that the system had to clear for four steps of 96 MiB."""
    command = [sys.executable, "-c", PAGES, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@GLIBC
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    assert 10 * faults("keep") < faults("give back")


KEPT = """
import torch
from orchestrator.engine import memory
cpu = torch.device("cpu")
memory.keep_freed()
before = memory.used(cpu)
taken = torch.ones(300 * 2**20, dtype=torch.uint8)
del taken
kept = memory.used(cpu)
memory.reset_peak(cpu)
print((kept - before) // 2**20, (memory.used(cpu) - before) // 2**20)
print((memory.peak(cpu) - before) // 2**20)
"""


@GLIBC
def test_what_is_kept_counts_neither_as_used_nor_for_the_next_peak() -> None:
    command = [sys.executable, "-c", KEPT]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kept, used, peak = map(int, said.split())
    assert kept > 250
    assert used < 50
    assert peak < 50
