"""Runs `orchestrate` as a person would, in a process of its own."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from orchestrator.provenance import import_variables
from orchestrator.results.ledger import Ledger
from orchestrator.spec import TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.trees import make_own

SPACE = "lora: {rank: [2, 4]}\nlinear: {lr: [0.01, 0.001]}\n"
"""A small search: two configurations for each of two adapters."""


@dataclass(frozen=True)
class Event:
    """One line of logs/trials.log, which is written beside the ledger and not from it."""

    time: float
    name: str
    key: str
    pid: int
    epoch: int
    """Epochs that the trial had behind it."""


def environment(data: Path) -> dict[str, str]:
    """The command's environment: its data store, one thread, no colours."""
    return {**os.environ, "ORCHESTRATE_DATA": str(data), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


@cache
def garden() -> str:
    """A suite of three tasks with 36 training images each: an epoch takes a tenth of a second."""
    folder = tempfile.mkdtemp(prefix="garden-")
    atexit.register(shutil.rmtree, folder)
    return str(make_own(Path(folder)))


def small_sweep(
    out: Path, backend: str, *more: str, suite: str = "", tasks: str = "tulips,weeds"
) -> list[str]:
    """A sweep with two adapters and every stage: 16 trials for each task."""
    space = out.parent / "space.yaml"
    space.write_text(SPACE)
    options = (
        f"--backbone vit_mini --tasks {tasks} --adapter lora --adapter linear "
        f"--sampler grid --stopping none --epochs 2 --seeds 2 --backend {backend} --device cpu"
    )
    command = ["sweep", suite or garden(), *options.split(), "--space", str(space)]
    return [*command, "--out", str(out), *more]


def misleading(folder: Path) -> Path:
    """A current folder with modules of names that are needed, all of which fail."""
    for name in ("adapters", "mlflow", "orchestrator", "timm"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise RuntimeError(__file__)")
    (folder / "profile.py").write_text("raise RuntimeError(__file__)")
    return folder


def start(
    arguments: list[str], data: Path, output: int = subprocess.PIPE, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Starts `orchestrate` with these arguments; like the installed script, it does not import from
    the current folder.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from orchestrator.cli.main import main; main()", *arguments],
        env={**environment(data), **import_variables()},
        cwd=cwd,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """For a child process: a shell that runs the tests in the background has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(
    arguments: list[str], data: Path, timeout: float = 240, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `orchestrate` to its end; output and errors come as one text."""
    process = start(arguments, data, cwd=cwd)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, output)


def events(out: Path) -> list[Event]:
    """What the pools' own log says."""
    log = SweepPaths(out).trial_log
    if not log.exists():
        return []
    # A line that a full disk cut off is no line.
    whole = re.findall(r"^([\d.]+) (\w+) (\w{32}) (\d+) (\d+)$", log.read_text(), re.MULTILINE)
    return [Event(float(t), name, key, int(pid), int(epoch)) for t, name, key, pid, epoch in whole]


def results(out: Path) -> dict[str, TrialResult]:
    """The ledger's rows by key."""
    return {row.key: row for row in Ledger(SweepPaths(out).ledger).results()}


def widest(out: Path) -> int:
    """The most trials that were in the pools at once, from their own log."""
    inside: set[str] = set()
    most = 0
    for event in events(out):
        (inside.add if event.name == "started" else inside.discard)(event.key)
        most = max(most, len(inside))
    return most


def check_once_each(out: Path) -> None:
    """No finished trial lost, none run again, by the log that is kept without the ledger."""
    recorded = Counter(event.key for event in events(out) if event.name == "recorded")
    assert set(recorded) <= set(results(out)), "a trial was recorded and is lost"
    assert set(recorded.values()) <= {1}, "a trial was recorded twice"
    when = {event.key: event.time for event in events(out) if event.name == "recorded"}
    again = [e.key for e in events(out) if e.name == "started" and e.time > when.get(e.key, e.time)]
    assert not again, "a trial was started after it had finished"


def until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    """Wait for it; closely, because tests kill at the moment it is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


Here = Callable[..., str]
"""Runs `orchestrate` in this process; see the fixture `here`."""


def refused(here: Here, arguments: list[str], *fragments: str) -> None:
    """The command ends with code 2 and a message with all of `fragments`."""
    text = here(arguments, code=2)
    for fragment in fragments:
        assert fragment in text, text
