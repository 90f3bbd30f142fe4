from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput, SweepConflict
from orchestrator.storage.folder_lock import HOLDER, FolderLock, hold_worker_lock

DRIVER = """
import os, sys, time
from pathlib import Path
from orchestrator.storage.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    print(lock.token, flush=True)
    if "fork" in sys.argv and (child := os.fork()):
        print(child, flush=True)
    time.sleep(600)
"""
WORKER = """
import sys, time
from pathlib import Path
from orchestrator.storage.folder_lock import hold_worker_lock
hold_worker_lock(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""
REPEATED = """
import sys, time
from pathlib import Path
from orchestrator.errors import SweepConflict
from orchestrator.storage.folder_lock import FolderLock
out, taken = Path(sys.argv[1]), 0
while taken < 20:
    try:
        with FolderLock(out):
            (out / "alone").mkdir()
            time.sleep(0.001)
            (out / "alone").rmdir()
            taken += 1
    except SweepConflict:
        continue
print("done", flush=True)
"""
Processes = list["subprocess.Popen[str]"]
Started = tuple["subprocess.Popen[str]", str]


@pytest.fixture
def started() -> Iterator[Processes]:
    processes: Processes = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: Processes, code: str, *args: object) -> Started:
    """The process and the first line that it prints."""
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def orphans(started: Processes, out: Path, count: int = 1) -> Processes:
    """Workers of a command that was killed; all of them hold their lock."""
    command, token = start(started, DRIVER, out)
    workers = [start(started, WORKER, out, token) for _ in range(count)]
    assert {line for _, line in workers} == {"held"}
    command.kill()
    return [worker for worker, _ in workers]


def take(out: Path, timeout: float = 0.0) -> str:
    """Take the lock and give it back; its token."""
    with FolderLock(out, timeout=timeout) as lock:
        return lock.token


def test_the_lock_can_be_taken_again_after_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mini"
    with FolderLock(out) as first:
        os.close(hold_worker_lock(out, first.token))
    with pytest.raises(ZeroDivisionError), FolderLock(out):
        raise ZeroDivisionError
    assert take(out) > first.token


def test_a_second_command_is_refused_and_does_not_disturb_the_first(
    tmp_path: Path, started: Processes
) -> None:
    process, _ = start(started, DRIVER, tmp_path)
    holder = json.loads((tmp_path / HOLDER).read_text())
    for _ in range(2):
        with pytest.raises(SweepConflict) as caught:
            take(tmp_path)
    assert f"process {process.pid} on {holder['host']}, since 20" in str(caught.value)
    assert re.search(r"Ctrl-C.*--out", str(caught.value))
    assert json.loads((tmp_path / HOLDER).read_text()) == holder
    (tmp_path / HOLDER).write_text("[")
    with pytest.raises(SweepConflict, match="another command is running"):
        take(tmp_path)


def test_a_killed_command_leaves_the_lock_free_at_once(tmp_path: Path, started: Processes) -> None:
    process, _ = start(started, DRIVER, tmp_path)
    process.kill()  # not waited for: its lock is released a moment later
    with FolderLock(tmp_path) as lock:
        assert json.loads((tmp_path / HOLDER).read_text())["token"] == lock.token


def test_the_next_command_waits_for_all_orphans_and_reports_it_once(
    tmp_path: Path, started: Processes
) -> None:
    first, second = orphans(started, tmp_path, count=2)
    with pytest.raises(SweepConflict, match=r"still run after 0\.2 s.*lsof"):
        take(tmp_path, 0.2)
    first.kill()
    with pytest.raises(SweepConflict, match="still run"):  # the command's own lock is free again
        take(tmp_path, 0.2)
    messages: list[str] = []

    def waiting(text: str) -> None:
        messages.append(text)
        second.kill()

    with FolderLock(tmp_path, timeout=30, waiting=waiting) as lock:
        assert second.wait(timeout=5) == -signal.SIGKILL
        os.close(hold_worker_lock(tmp_path, lock.token))
    assert len(messages) == 1
    assert "waiting up to 30 s" in messages[0]


def test_a_worker_that_starts_after_its_command_was_replaced_ends(tmp_path: Path) -> None:
    former = take(tmp_path)
    with FolderLock(tmp_path) as lock:
        with pytest.raises(SweepConflict, match="no longer holds"):
            hold_worker_lock(tmp_path, former)
        os.close(hold_worker_lock(tmp_path, lock.token))
    take(tmp_path)  # the refused worker holds nothing


@pytest.mark.parametrize("other", ["missing", "empty", "of an earlier sweep"])
def test_a_machine_that_does_not_see_the_folder_is_refused(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path on two machines: another disk."""
    monkeypatch.setattr("orchestrator.storage.folder_lock._VISIBLE_S", 0.1)
    there = tmp_path / "there"
    if other == "empty":
        there.mkdir()
    if other == "of an earlier sweep":
        take(there)
    before = sorted(there.glob("*"))
    with FolderLock(tmp_path / "here") as lock, pytest.raises(SweepConflict) as caught:
        hold_worker_lock(there, lock.token)
    text = str(caught.value)
    assert f"'{there}' on host {socket.gethostname()} is not the folder" in text
    assert "must be shared (NFS at one path, or --out s3://" in text
    assert sorted(there.glob("*")) == before, "nothing is created there"


def test_a_share_may_show_the_lock_a_moment_later(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        holder = (tmp_path / HOLDER).rename(tmp_path / "unseen")
        threading.Timer(0.2, lambda: holder.rename(tmp_path / HOLDER)).start()
        os.close(hold_worker_lock(tmp_path, lock.token))


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path, started: Processes) -> None:
    process, _ = start(started, DRIVER, tmp_path, "fork")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    try:
        take(tmp_path)
        os.kill(child, 0)  # it is alive
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_program_does_not_keep_the_lock(tmp_path: Path, started: Processes) -> None:
    with FolderLock(tmp_path):
        started.append(subprocess.Popen(["sleep", "600"], text=True))
    take(tmp_path)


def test_many_commands_at_once_take_turns(tmp_path: Path, started: Processes) -> None:
    """Whoever holds the lock creates a folder that must not exist."""
    command = [sys.executable, "-c", REPEATED, str(tmp_path)]
    started.extend(subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4))
    assert [process.communicate(timeout=60)[0] for process in started] == ["done\n"] * 4


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file/out.*cannot be written.*--out"):
        take(tmp_path / "file" / "out")
