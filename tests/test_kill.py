"""`kill -9` at seeded moments, of the command and of a local cluster's processes; then once more.

On other clusters, and of other processes: tests/hosts/test_kills.py.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.spec import TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import check_once_each, events, results, run, small_sweep, start, until
from tests.hosts.reliability import line

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
    ("backend", "moments"), [("local", 3), pytest.param("ray", 3, marks=pytest.mark.long)]
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


NO_START = "cannot start a cluster on this machine"
RAYS = ("gcs_server", "raylet", "RuntimeEnvAgent", "DashboardAgent")
"""Processes of a local cluster without which the command ends."""
PROCESSES = (*RAYS, "PoolManager")
"""With the one without which it goes on."""
END_SECONDS = 60
"""What a command may take on a busy machine; docs/reliability.md says 30."""


def _below(command: subprocess.Popen[str]) -> dict[psutil.Process, str]:
    """The processes that the command has started, with their files or `ray::ACTOR.METHOD`."""
    found = {}
    for process in psutil.Process(command.pid).children(recursive=True):
        with suppress(psutil.Error):  # ended meanwhile
            found[process] = "".join(process.cmdline()[:1])  # one that is just ending has none
    return found


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _amid(
    arguments: list[str], data: Path, folder: Path, lines: int
) -> tuple[subprocess.Popen[str], Path]:
    """The command, once its pools have logged `lines` events, and the file with its output.

    A machine that is too busy to start Ray says so; then the command is started again.
    """
    out = Path(arguments[arguments.index("--out") + 1])
    for attempt in range(3):
        said = folder / f"log{attempt}"
        with said.open("w") as output:
            command = start(arguments, data, output.fileno())
        until(lambda: len(events(out)) >= lines or command.poll() is not None, 300)  # noqa: B023
        if command.poll() is None or NO_START not in said.read_text():
            break
    return command, said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_local_cluster_loses_its_processes(tmp_path: Path, data_root: Path) -> None:
    """One sweep that loses one after another, the pools' manager last; a line of the table each."""
    out = tmp_path / "out"
    arguments = _sweep(out, "ray")
    rng = random.Random(f"processes {os.environ.get('KILL_SEED', '0')}")
    for name in (*rng.sample(RAYS, len(RAYS)), *PROCESSES[len(RAYS) :]):
        with line(name) as mine:
            lines = min(len(events(out)) + rng.randint(1, 4), 2 * TRIALS - 1)
            command, log = _amid(arguments, data_root, tmp_path, lines)
            try:
                time.sleep(rng.uniform(0, 1))
                before = _below(command)
                title = re.compile(rf"(/|::){name}\b")
                (victim,) = (one for one, first in before.items() if title.search(first))
                victim.kill()
                began = time.monotonic()
                code = command.wait(END_SECONDS if name in RAYS else 300)
                took = time.monotonic() - began
            finally:
                command.kill()
            said = log.read_text()
            assert "Traceback" not in said
            until(lambda: not any(map(_alive, before)), 30)  # noqa: B023
            check_once_each(out)
            recorded = len(results(out))
            if name in RAYS:
                assert code == 2, said
                last = said.splitlines()[-1]
                assert last.startswith("orchestrate: the Ray cluster that this "), said
                assert "run the same command again" in last
                mine.found = f"ended after {took:.0f} s with {recorded} of {TRIALS} trials"
            else:
                assert (code, recorded) == (0, TRIALS), said
                mine.found = f"went on to {recorded} of {TRIALS} trials"
