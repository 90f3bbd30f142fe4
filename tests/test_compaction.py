"""A sweep compacts its ledger when it concludes; a kill while it does loses and repeats nothing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.results.ledger import Ledger
from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import environment, events, results, run, small_sweep

COMPACTING = """
import sys
from orchestrator import sweep
from orchestrator.cli.main import main
sweep.COMPACT_FROM = 1
main()
"""


@pytest.mark.timeout(300)
def test_a_killed_compaction_is_completed_by_the_same_command(
    tmp_path: Path, mini_data: Path
) -> None:
    out = tmp_path / "out"
    command, ledger = small_sweep(out, "local"), SweepPaths(out).ledger
    assert run(command, mini_data).returncode == 0
    before, trained = results(out), len(events(out))
    # Make the moment wide enough to be hit: rows of no study of this sweep.
    strangers = [row for row in before.values() if row.trial.stage == "search"]
    for seed in range(1000, 1300):
        row = strangers[seed % len(strangers)]
        Ledger(ledger).append(replace(row, trial=replace(row.trial, seed=seed)))
    whole = Ledger(ledger).results()
    again = [sys.executable, "-c", COMPACTING, *command]
    rng, killed = random.Random(5), 0
    for _ in range(3):
        process = subprocess.Popen(again, env=environment(mini_data), stdout=subprocess.DEVNULL)
        while process.poll() is None and not _merging(out):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        killed += process.wait() < 0
        assert Ledger(ledger).results() == whole
    assert killed
    ended = subprocess.run(again, env=environment(mini_data), check=False)
    assert ended.returncode == 0
    assert Ledger(ledger).results() == whole
    assert len(events(out)) == trained, "nothing was trained again"
    finals = {row.key for row in whole if row.trial.stage == "final"}
    assert {path.stem for path in (out / "ledger" / "fragments").iterdir()} == finals
    assert len(os.listdir(out / "ledger" / "compacted")) == 1


def _merging(out: Path) -> bool:
    """Whether a compaction has begun to write, and its fragments are not all deleted."""
    folder = out / "ledger"
    return (folder / "compacted").exists() and len(os.listdir(folder / "fragments")) > 100
