"""Runs an arm: starts its processes, samples their memory, collects their logs.

`python -m arms.launch REQUEST.json` is such a process.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import ROOT

from arms.figures import ArmRun, Process

PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Arm:
    """How an arm is to be run.

    `lanes` processes at a time, each with `threads` (None: torch's default). `own` says whether
    each trial has a process of its own; else a process per lane takes its share of the trials, and
    all at once if the arm places them itself (`inner` lanes).
    """

    name: str
    lanes: int = 1
    threads: int | None = None
    slots: int = 1
    own: bool = True
    inner: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def run(arm: Arm, folder: Path, trials: Sequence[int], deadline: float = float("inf")) -> ArmRun:
    """Runs trials of an arm; after `deadline` (of time.time) no further process is started.

    RuntimeError with the end of what a process printed if one fails.
    """
    shares = (
        [[t] for t in trials]
        if arm.own
        else [list(trials[i :: arm.lanes]) for i in range(arm.lanes)]
    )
    with tempfile.TemporaryDirectory(dir=folder) as place, _watched() as memory:
        log = Path(place) / "log.jsonl"
        began = time.time()
        starts = _all(arm, folder, Path(place), log, deque(shares), deadline)
        ended = time.time()
        events = [json.loads(line) for line in log.read_text().splitlines()]
    return _collected(arm, events, starts, began, ended, max(memory))


def _all(
    arm: Arm, folder: Path, place: Path, log: Path, shares: deque[list[int]], deadline: float
) -> dict[int, float]:
    """Runs every share, `lanes` at a time; process id → when it was started."""
    starts: dict[int, float] = {}
    errors: list[Exception] = []
    first = len(shares) - arm.lanes

    def lane(number: int) -> None:
        while shares and not errors and (len(shares) > first or time.time() < deadline):
            try:
                _one(arm, folder, place / f"{number}", log, shares.popleft(), starts)
            except Exception as error:  # told to the caller by the main thread
                errors.append(error)

    threads = [threading.Thread(target=lane, args=(n,)) for n in range(arm.lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return starts


def _one(
    arm: Arm, folder: Path, place: Path, log: Path, trials: list[int], starts: dict[int, float]
) -> None:
    place.mkdir(exist_ok=True)
    asked = {
        "arm": arm.name,
        "folder": str(folder),
        "log": str(log),
        "trials": trials,
        "threads": arm.threads,
        "options": arm.options,
    }
    request = place / "request.json"
    request.write_text(json.dumps(asked))
    began = time.time()
    with open(place / "output", "w+") as output:
        process = start("arms.launch", str(request), threads=arm.threads, output=output)
        starts[process.pid] = began
        if process.wait():
            raise RuntimeError(f"arm {arm.name}: {(place / 'output').read_text()[-3000:]}")


def start(
    module: str, *arguments: str, threads: int | None = None, output: Any = None
) -> subprocess.Popen[bytes]:
    """A process of the benchmark, which finds the packages of this checkout."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    # What was there comes first: a caller may shadow packages.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths[::-1]))}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _collected(
    arm: Arm, events: list[dict[str, Any]], starts: dict[int, float],
    began: float, ended: float, host_mib: float,
) -> ArmRun:  # fmt: skip
    def of(kind: str) -> list[dict[str, Any]]:
        return [event for event in events if event["event"] == kind]

    starts = {**starts, **{event["pid"]: event["time"] for event in of("began")}}
    processes = [
        Process(
            starts[step["pid"]],
            step["time"],
            tuple((e["time"], e["count"]) for e in of("epochs") if e["pid"] == step["pid"]),
        )
        for step in of("step")
    ]
    ends = of("trial")
    return ArmRun(
        began, ended, arm.inner or arm.lanes, arm.slots, tuple(processes),
        {event["trial"]: event["accuracy"] for event in ends},
        free=sum(event["seconds"] for event in of("check")),
        per_trial=arm.own or arm.inner is not None,
        device_mib=max((event["device_mib"] for event in ends), default=0),
        host_mib=host_mib,
        options=arm.options,
    )  # fmt: skip


@contextmanager
def _watched(every: float = 0.5) -> Iterator[list[float]]:
    """Resident memory in MiB of all processes below this one, sampled; their sum each time.

    Pages that processes share count for each of them.
    """
    samples, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(every):
            samples.append(_resident_below(os.getpid()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _resident_below(parent: int) -> float:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            text = _read(entry / "stat")
            if text:
                children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(
                    int(entry.name)
                )
    total, todo = 0.0, list(children.get(parent, []))
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        words = _read(Path(f"/proc/{pid}/statm")).split()
        total += int(words[1]) * PAGE_MIB if words else 0.0
    return total


def _read(path: Path) -> str:
    """A file of /proc, empty if its process has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> None:
    """Runs an arm's share of the trials in this process."""
    import torch

    from arms.work import Log, Work

    request = json.loads(Path(sys.argv[1]).read_text())
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    work = Work.read(Path(request["folder"]))
    log = Log(Path(request["log"]), work.device)
    arm = importlib.import_module(f"arms.{request['arm']}")
    arm.run(work, request["trials"], {**request["options"], "log": request["log"]}, log)


if __name__ == "__main__":
    main()
