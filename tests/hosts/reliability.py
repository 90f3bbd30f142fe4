"""The published table of what a sweep survives: one line for each case, written by its test.

`RELIABILITY_TABLE=docs/reliability.md pytest -m cluster tests/hosts/test_kills*.py …` puts what
the tests found between the markers of that file; without the variable nothing is written. The last
cases, on a local cluster, are those of tests/test_kill.py.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.storage.files import write_whole

VARIABLE = "RELIABILITY_TABLE"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEAD = "| case | what must hold | last run | |\n|---|---|---|---|"
PASSED, FAILED = "passed", "**failed**"

_SAME = "nothing lost, nothing twice, the same registry"
_ONCE = "nothing lost, nothing twice"
_ENDS = (
    "ends within 30 s with code 2, a sentence and no process left; then the same command goes on; "
    f"{_ONCE}"
)
CASES: dict[str, tuple[str, str]] = {
    "driver": ("SIGKILL of the command, at random moments", f"the same command goes on; {_SAME}"),
    "trainable": ("SIGKILL of the processes that wait for trials", f"the sweep goes on; {_SAME}"),
    "pool": ("SIGKILL of a pool", f"the sweep goes on; {_SAME}"),
    "node": ("a worker is switched off", f"the sweep goes on; {_SAME}"),
    "head": ("the head is switched off", f"the same command on a new head goes on; {_SAME}"),
    "no tracker": ("MLflow is away for the whole sweep", f"{_SAME}; `orchestrate track` completes"),
    "tracker": ("MLflow's server is killed amid it", f"{_SAME}; `orchestrate track` completes"),
    "refused": ("storage refuses every write for a while", f"the sweep waits and goes on; {_SAME}"),
    "full": ("the disk is full for a while", f"the sweep waits and goes on; {_SAME}"),
    "torn": ("a torn row, a draft that a kill left", "refused by name; that trial alone again"),
    "two": ("two commands on one sweep", f"the second is refused, on either host; {_SAME}"),
    "SIGINT": ("Ctrl-C", f"ends with 130 and says how to go on; {_SAME}"),
    "asynchronous": (
        "SIGKILL of the command under TPE and ASHA",
        "nothing lost, nothing twice, no configuration twice, a clean audit",
    ),
    "join": (
        "a machine joins",
        "it trains within a report interval (10 s) of its pool being ready",
    ),
    "leave": ("a machine leaves", "its trials lose their current epoch at most"),
    "demand": ("a sweep for GPUs where there are none", "pending fractions of a GPU, visible"),
    "PoolManager": ("SIGKILL of the pools' manager, local cluster", f"the sweep goes on; {_ONCE}"),
    "gcs_server": ("SIGKILL of Ray's `gcs_server`, local cluster", _ENDS),
    "raylet": ("SIGKILL of Ray's `raylet`, local cluster", _ENDS),
    "RuntimeEnvAgent": ("SIGKILL of Ray's runtime-env agent, local cluster", _ENDS),
    "DashboardAgent": ("SIGKILL of Ray's dashboard agent, local cluster", _ENDS),
}  # fmt: skip
"""Name → (what happens, what must hold), in the table's order. Each has one test."""


@dataclass
class Line:
    """What a case's test has to say."""

    found: str = ""
    """In the last run: figures, in a few words."""


@contextmanager
def line(case: str) -> Iterator[Line]:
    """The case's line, written when its test is over, whether it passed or not."""
    assert case in CASES, f"'{case}' is not among the table's cases"
    mine, began = Line(), time.monotonic()
    try:
        yield mine
    except KeyboardInterrupt:
        raise
    except BaseException:  # pytest's own are no Exceptions
        _write(case, mine, FAILED, began)
        raise
    assert mine.found, f"'{case}' says nothing of what it found"
    _write(case, mine, PASSED, began)


def lines(document: str) -> dict[str, str]:
    """What happens → the whole line, of the table in a document."""
    table = document.partition(BEGIN)[2].partition(END)[0]
    rows = [row for row in table.strip().splitlines() if row not in HEAD.splitlines()]
    return {row.split("|")[1].strip(): row for row in rows}


def _write(case: str, mine: Line, outcome: str, began: float) -> None:
    happens, holds = CASES[case]
    seconds = time.monotonic() - began
    row = f"| {happens} | {holds} | {mine.found or '–'}; {seconds:.0f} s | {outcome} |"
    print(row)
    if path := os.environ.get(VARIABLE):
        _put(Path(path), happens, row)


def _put(path: Path, happens: str, row: str) -> None:
    """Replaces one line; the table is in the order of `CASES`, and has nothing else."""
    document = path.read_text()
    assert document.count(BEGIN) == document.count(END) == 1, f"{path} has no place for the table"
    known = lines(document) | {happens: row}
    kept = [known[name] for name, _ in CASES.values() if name in known]
    table = "\n".join([BEGIN, "", HEAD, *kept, "", END])
    document = re.sub(f"{BEGIN}.*{END}", lambda _: table, document, flags=re.DOTALL)
    write_whole(path, document.encode())
