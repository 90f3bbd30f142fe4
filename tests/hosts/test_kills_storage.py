"""The kill matrix, storage: it refuses, it is full, it holds something torn."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import events, results
from tests.hosts.rack import wait_for, why_not
from tests.hosts.reliability import line
from tests.hosts.same import ledger_differences, registry_differences
from tests.hosts.standing import SHARED, Command, Standing
from tests.hosts.sweeps import TRIALS, Disturbed, amid, finish, sweep

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(600),
]
SECONDS = 10.0
"""For which storage refuses."""
REFUSES, WORKS = "storage refuses, trying again", "storage works again"


@contextmanager
def _read_only(standing: Standing) -> Iterator[None]:
    """The shared folder of both nodes refuses whatever is opened to be written from now on."""
    nodes = (standing.head, standing.worker)
    for host in nodes:
        # A second mount on top: the first one, with the files that are open, cannot be changed.
        standing.hosts.run(
            host, f"mount --bind {SHARED} {SHARED} && mount -o remount,bind,ro {SHARED}"
        )
    try:
        yield
    finally:
        for host in nodes:
            standing.hosts.run(host, f"umount --lazy {SHARED}")


@contextmanager
def _full(standing: Standing) -> Iterator[None]:
    """Not a byte is left of the disk that the shared folder is on."""
    disk = os.statvfs(standing.shared)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    standing.limit_disk(used + 2**20)
    filler = standing.shared / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                while _written(file.fileno(), size):
                    pass
        yield
    finally:
        standing.limit_disk(disk.f_blocks * disk.f_frsize)
        filler.unlink(missing_ok=True)


def _said(standing: Standing, words: str) -> int:
    """How often the pools of both nodes have said this."""
    found = 0
    for host in (standing.head, standing.worker):
        # Not by a command on the host: its output would need the disk.
        logs = standing.hosts.path(host, "/tmp/ray").glob("session_2*/logs/worker-*.err")
        found += sum(path.read_text(errors="replace").count(words) for path in logs)
    return found


def _written(handle: int, size: int) -> bool:
    try:
        return os.write(handle, bytes(size)) == size
    except OSError:
        return False


def test_storage_refuses_for_a_while_and_then_is_full(standing: Standing, calm: Path) -> None:
    """Two lines, one sweep."""
    with line("refused") as refused, line("full") as full:
        disturbed, command = amid(standing, "storage", 0.25)
        refused.found = _outlasts(standing, disturbed, command, _read_only(standing))
        disturbed.reach(command, disturbed.recorded + 1)
        full.found = _outlasts(standing, disturbed, command, _full(standing))
        finish(command)
        disturbed.check(calm)


def _outlasts(
    standing: Standing,
    disturbed: Disturbed,
    command: Command,
    trouble: AbstractContextManager[None],
) -> str:
    """The sweep records nothing during the trouble and goes on by itself afterwards."""
    refused, works = _said(standing, REFUSES), _said(standing, WORKS)
    with trouble:
        wait_for("a refusal", lambda: _said(standing, REFUSES) > refused, 60)
        before = disturbed.recorded
        time.sleep(SECONDS)
        assert disturbed.recorded == before, "storage did not refuse"
        assert not command.ended, command.text
    wait_for("the storage to work", lambda: _said(standing, WORKS) > works, 60)
    return f"refused for {SECONDS:.0f} s after {before} of {TRIALS} trials; nobody had to act"


def test_a_torn_row_is_refused_and_its_trial_alone_is_trained_again(
    standing: Standing, calm: Path
) -> None:
    """In a copy of the undisturbed sweep, as a failing disk or a careless copy would leave it."""
    with line("torn") as mine:
        folder = standing.folder("torn")
        shutil.copytree(calm, folder)
        shutil.rmtree(SweepPaths(folder).logs)
        shutil.rmtree(SweepPaths(folder).registry)
        key = next(k for k, row in results(calm).items() if row.trial.stage == "replicate")
        row = folder / f"ledger/fragments/{key}.parquet"
        os.truncate(row, row.stat().st_size // 2)
        (folder / "ledger/tmp").mkdir(exist_ok=True)
        (folder / "ledger/tmp" / f"{key}.77.aa").write_bytes(row.read_bytes()[:100])

        said = standing.run(sweep("torn"), code=2)
        assert f"{SHARED}/torn/ledger/fragments/{key}.parquet" in said
        assert "Move it out of the ledger, then run the same command again" in said
        assert not events(folder)
        standing.hosts.run(standing.head, f"mv {SHARED}/torn/ledger/fragments/{key}.parquet /tmp")
        standing.run(sweep("torn"))
        assert [(event.name, event.key) for event in events(folder)] == [
            ("started", key),
            ("recorded", key),
        ]
        assert list((folder / "ledger/tmp").iterdir()) == []
        assert ledger_differences(calm, folder) == []
        assert registry_differences(calm, folder) == []
        mine.found = f"trained again: 1 of {TRIALS}; the draft is removed"
