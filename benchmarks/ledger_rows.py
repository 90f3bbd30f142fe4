"""How long a large ledger takes to compact and to read.

    python benchmarks/ledger_rows.py       # prints, and writes benchmarks/results/ledger_rows.json

A ledger of `--rows` results (VTAB-1k's tasks, eight adapters, 16 configurations times many seeds;
a curve of 20 epochs, one byte for each of 200 images) is made in pieces by all cores, each piece a
compacted file, and compacted into one. Not timed: making it. Timed, the reading in a new process
and with the file in the page cache: `Ledger.compact`, `Ledger.results` (which checks every hash)
and the selection of every study's winner.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from machine import facts, write
from made_up import made_up

from orchestrator.results import rows
from orchestrator.results.ledger import COMPACTED, Ledger
from orchestrator.results.selection import winner
from orchestrator.spec import STAGES, Recipe, Trial, TrialResult
from orchestrator.tasks import suite

ADAPTERS = ("linear", "bitfit", "lora", "fact_tt", "efft2", "hta", "ssf", "arc")
PIECE = 20_000
RECIPE = Recipe(epochs=20, warmup_epochs=2)
PER_STATUS = ("finished",) * 7 + ("stopped",) * 2 + ("diverged",)


def trials() -> Iterator[Trial]:
    """Without end: study by study, then the next configuration, then the next seed."""
    vtab, number = suite("vtab"), 0
    while True:
        for task in vtab.tasks:
            for adapter in ADAPTERS:
                yield Trial(
                    suite="vtab",
                    task=task.name,
                    backbone=vtab.backbone,
                    adapter=adapter,
                    params={"rank": 2 ** (number % 4), "scale": 10.0 ** (number // 4 % 4 - 2)},
                    recipe=RECIPE,
                    seed=number // 48,
                    stage=STAGES[number // 16 % 3],
                    data="d" * 64,
                    weights="w" * 64,
                )
        number += 1


def make_piece(folder: Path, start: int, stop: int) -> None:
    """One compacted file of the trials `start` … `stop`."""
    results = [
        made_up(trial, PER_STATUS[number % 10 if trial.stage == "search" else 0], 1.8e9 + number)
        for number, trial in enumerate(islice(trials(), start, stop), start)
    ]
    data = rows.encode(results)
    name = hashlib.sha256(data).hexdigest()[:32]
    (folder / COMPACTED / f"{name}.parquet").write_bytes(data)


def make(folder: Path, count: int) -> float:
    """A compacted ledger; the seconds that compaction took."""
    (folder / COMPACTED).mkdir()
    starts = range(0, count, PIECE)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        work = [pool.submit(make_piece, folder, s, min(s + PIECE, count)) for s in starts]
        for piece in work:
            piece.result()
    began = time.perf_counter()
    Ledger(folder).compact()
    return time.perf_counter() - began


def measure(folder: Path) -> dict[str, float]:
    """Reads and selects; seconds, rows, and the process's largest memory in MiB."""
    before = _peak()
    began = time.perf_counter()
    results = Ledger(folder).results()
    read = time.perf_counter()
    studies: defaultdict[str, list[TrialResult]] = defaultdict(list)
    for result in results:
        studies[result.trial.study].append(result)
    winners = [winner(study) for study in studies.values()]
    done = time.perf_counter()
    return {
        "rows": len(results),
        "studies": len(winners),
        "seconds_to_read": round(read - began, 3),
        "seconds_to_select": round(done - read, 3),
        "seconds": round(done - began, 3),
        "mib_before": before,
        "mib_at_most": _peak(),
    }


def _peak() -> float:
    """As the kernel counts it for this program: `getrusage` keeps what was before its exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:")) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="measure the ledger that is there")
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(measure(arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        compaction = make(folder, arguments.rows)
        (file,) = (folder / COMPACTED).iterdir()
        size = file.stat().st_size / 2**20
        command = [sys.executable, __file__, "--folder", place]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = {
        **facts("pyarrow"),
        "file_mib": round(size, 1),
        "seconds_of_compaction": round(compaction, 2),
        **json.loads(done.stdout),
    }
    print(result)
    print(write("ledger_rows", result))


if __name__ == "__main__":
    main()
