"""The tracking process as a sweep uses it: killed, orphaned, interrupted, without a server."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.tracking.locations import default_uri, log_file
from orchestrator.tracking.mlflow import TrackCounts, track
from orchestrator.tracking.process import TrackingProcess
from tests.commands import misleading, until
from tests.tracking.database import check_agrees, count, stored
from tests.tracking.synthetic import append, results
from tests.tracking.test_mlflow import NOBODY

DRIVER = """
import os, sys, time
from pathlib import Path
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.tracking.locations import default_uri
from orchestrator.tracking.process import TrackingProcess
out = Path(sys.argv[1])
with FolderLock(out) as lease:
    process = TrackingProcess(out, default_uri(out), lease.token).start()
    if os.fork() == 0:  # holds the pipe to the writer after the sweep's death
        time.sleep(60)
        os._exit(0)
    print(process.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lease(sweep: Path) -> Iterator[str]:
    with FolderLock(sweep) as held:
        yield held.token


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return (Path("/proc") / str(pid) / "stat").read_text().split(")")[-1].split()[0] == "Z"


def test_killed_writers_leave_one_run_per_key(sweep: Path, lease: str) -> None:
    """Each writer takes over what the one before left, wherever it was killed."""
    rng = random.Random(11)
    rows = list(results(14))
    append(sweep, rows[:11])
    first = count(sweep)
    targets = sorted(rng.sample(range(first + 1, first + 13), 2))
    for target in targets:
        process = TrackingProcess(sweep, default_uri(sweep), lease).start()
        until(lambda least=target: count(sweep) >= least)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        process.stop()
        stored(sweep)
    append(sweep, rows[11:])
    outcome = TrackingProcess(sweep, default_uri(sweep), lease).start().finish()
    assert outcome.complete, outcome.message
    assert check_agrees(sweep, rows)["sweep"].status == "FINISHED"
    assert track(sweep) == TrackCounts(14, 0)


def test_the_writer_imports_what_the_sweep_does(
    sweep: Path, lease: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(misleading(tmp_path / "cwd"))
    outcome = TrackingProcess(sweep, default_uri(sweep), lease).start().finish()
    assert outcome.complete, outcome.message + log_file(sweep).read_text()


def test_a_writer_killed_while_it_makes_the_database_leaves_no_half_of_one(migrated: Path) -> None:
    """See the fixture: the first writer was killed in the middle, the next one made it."""
    assert [file.name for file in migrated.parent.glob("mlflow.db*")] == ["mlflow.db"]
    assert set(stored(migrated.parent, "template")) == {"sweep"}


def test_rows_are_written_while_the_sweep_runs_and_nobody_else_writes(
    sweep: Path, lease: str
) -> None:
    (row, *more) = results(3)
    append(sweep, [row])
    process = TrackingProcess(sweep, default_uri(sweep), lease).start()
    until(lambda: row.key in stored(sweep))
    with pytest.raises(TrackingError, match="another command"):
        track(sweep, timeout=0.1)
    append(sweep, more)
    assert process.pid is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 10
    outcome = process.finish(interrupted=True)
    assert outcome.complete, outcome.message
    assert gone(process.pid)
    runs = check_agrees(sweep, [row, *more])
    assert {run.status for key, run in runs.items() if ":" in key or key == "sweep"} == {"KILLED"}


def test_the_writer_of_a_killed_sweep_notes_it_and_ends(sweep: Path) -> None:
    rows = append(sweep, results(2))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(sweep)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert driver.stdout is not None
    try:
        pid = int(driver.stdout.readline())
        until(lambda: {row.key for row in rows} <= stored(sweep).keys())
        driver.kill()
        until(lambda: gone(pid), 15.0)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert stored(sweep)["sweep"].status == "KILLED"
    check_agrees(sweep, rows)
    with FolderLock(sweep, timeout=5.0):
        pass


def test_a_tracker_that_is_down_costs_the_sweep_nothing(sweep: Path, lease: str) -> None:
    rows = append(sweep, results(3))
    outcome = TrackingProcess(sweep, NOBODY, lease).start().finish()
    assert not outcome.complete
    assert f"orchestrate track {sweep} --tracking-uri http://***@127.0.0.1:9" in outcome.message
    assert "hunter2" not in outcome.message + log_file(sweep).read_text()
    assert track(sweep) == TrackCounts(3, 3)
    check_agrees(sweep, rows)


def test_a_process_that_ends_early_or_late_or_never_started_is_reported(
    sweep: Path, lease: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = TrackingProcess(sweep, default_uri(sweep), lease)
    assert "was not started" in process.finish().message
    process.start().stop()
    assert str(log_file(sweep)) in process.finish().message
    assert "not done after 0.05 s" in process.start().finish(timeout=0.05).message
    assert process.pid is not None
    assert gone(process.pid)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    process = TrackingProcess(sweep, default_uri(sweep), lease).start()
    assert "did not start" in process.finish().message


def test_a_writer_of_an_older_lease_ends(sweep: Path, lease: str) -> None:
    append(sweep, results(1))
    outcome = TrackingProcess(sweep, default_uri(sweep), "0" * 16).start().finish()
    assert not outcome.complete
    assert "no longer holds" in outcome.message
    assert not any(run.tags["kind"] == "trial" for run in stored(sweep).values())
