"""`kill -9` of the command at seeded moments of every stage, then the same command again.

On a cluster, and of other processes: tests/hosts/test_kills.py.
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from orchestrator.spec import TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import check_once_each, events, results, run, small_sweep, start

TRIALS = 2 * (2 + 2 * 2 + 2)
"""Two adapters × (2 configurations, both replicated with 2 seeds, 2 finals)."""


def _sweep(out: Path, backend: str) -> list[str]:
    # Of six epochs, so that moments fall into trials too.
    return small_sweep(out, backend, "--epochs", "6", tasks="tulips")


def _kill_at(arguments: list[str], data: Path, out: Path, lines: int, delay: float) -> bool:
    """Starts the command, kills it once its pools have logged `lines` events; False if it ended."""
    # No pipe: waiting for its end would be waiting for the orphans too.
    process = start(arguments, data, subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(events(out)) < lines and process.poll() is None:
        assert time.monotonic() < deadline, "the command makes no progress"
        time.sleep(0.02)
    time.sleep(delay)
    ended = process.poll() is not None
    process.kill()  # the command alone: its workers must notice by themselves
    process.wait()
    return not ended


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> dict[str, TrialResult]:
    """The ledger of the same sweep, undisturbed."""
    out = tmp_path_factory.mktemp("calm") / "out"
    ended = run(_sweep(out, "local"), data_root)
    assert ended.returncode == 0, ended.stdout
    return results(out)


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("backend", "moments"), [("local", 6), pytest.param("ray", 3, marks=pytest.mark.long)]
)
def test_a_killed_sweep_goes_on_without_losing_or_repeating_a_trial(
    backend: str, moments: int, tmp_path: Path, data_root: Path, calm: dict[str, TrialResult]
) -> None:
    out = tmp_path / "killed"
    arguments = _sweep(out, backend)
    rng = random.Random(f"{backend} kills")
    # The first falls into the start-up, the last into the conclusion; the rest into all stages.
    targets = [0, *(round(2 * TRIALS * part / (moments - 1)) for part in range(1, moments))]
    killed = 0
    for index, target in enumerate(targets):
        seen = len(events(out))
        lines = min(max(target, seen + 1), 2 * TRIALS) if index else 0
        delay = rng.uniform(0, 2) if index in (0, moments - 1) else rng.uniform(0, 0.3)
        killed += _kill_at(arguments, data_root, out, lines, delay)
        check_once_each(out)
    assert killed >= moments - 1

    final = run(arguments, data_root)
    assert final.returncode == 0, final.stdout
    check_once_each(out)
    assert len(results(out)) == TRIALS
    assert SweepPaths(out).report.exists()
    assert (SweepPaths(out).registry / "index.json").exists()
    stages = {row.trial.stage for row in results(out).values()}
    assert stages == {"search", "replicate", "final"}

    assert set(results(out)) == set(calm)
    for key, row in results(out).items():
        assert row.value == pytest.approx(calm[key].value, abs=1e-5)
