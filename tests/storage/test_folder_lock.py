from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput, SweepConflict
from orchestrator.storage.folder_lock import HOLDER, FolderLock, hold_worker_lock

DRIVER = """
import sys, time
from pathlib import Path
from orchestrator.storage.folder_lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lease:
    print(lease.token, flush=True)
    {then}
"""
WORKER = """
import sys, time
from pathlib import Path
from orchestrator.storage.folder_lock import hold_worker_lock
hold_worker_lock(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""
FORKING = (
    "import os\n    child = os.fork()\n    if child: print(child, flush=True)\n    time.sleep(600)"
)
Processes = list["subprocess.Popen[str]"]


@pytest.fixture
def started() -> Iterator[Processes]:
    processes: Processes = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def start(started: Processes, code: str, *args: object) -> tuple[subprocess.Popen[str], str]:
    """The process and the first line that it prints."""
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def driver(
    started: Processes, out: Path, then: str = "time.sleep(600)"
) -> tuple[subprocess.Popen[str], str]:
    return start(started, DRIVER.format(then=then), out)


def test_a_lease_can_be_taken_again_after_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mini"
    with FolderLock(out) as first:
        worker = hold_worker_lock(out, first.token)
        worker.close()
    with FolderLock(out) as second:
        assert first.token != second.token


def test_a_second_command_is_refused_and_told_who_holds_it(
    tmp_path: Path, started: Processes
) -> None:
    process, _ = driver(started, tmp_path)
    holder = json.loads((tmp_path / HOLDER).read_text())
    begun = time.monotonic()
    with pytest.raises(SweepConflict) as caught, FolderLock(tmp_path):
        pass
    assert time.monotonic() - begun < 10
    message = str(caught.value)
    assert f"process {process.pid} on {holder['host']}, since 20" in message
    assert re.search(r"Ctrl-C.*--out", message)
    assert json.loads((tmp_path / HOLDER).read_text()) == holder


def test_a_refused_command_does_not_disturb_the_running_one(
    tmp_path: Path, started: Processes
) -> None:
    driver(started, tmp_path)
    for _ in range(2):
        with pytest.raises(SweepConflict), FolderLock(tmp_path):
            pass


def test_a_killed_command_leaves_the_lease_free_at_once(tmp_path: Path, started: Processes) -> None:
    process, _ = driver(started, tmp_path)
    process.kill()  # not waited for: the lease bears with the moment in which it is taken apart
    with FolderLock(tmp_path) as lease:
        assert json.loads((tmp_path / HOLDER).read_text())["token"] == lease.token


def test_the_next_command_waits_for_orphans_and_says_so_once(
    tmp_path: Path, started: Processes
) -> None:
    process, token = driver(started, tmp_path)
    worker, line = start(started, WORKER, tmp_path, token)
    assert line == "held"
    process.kill()
    said: list[str] = []

    def waiting(text: str) -> None:
        said.append(text)
        worker.send_signal(signal.SIGKILL)

    with FolderLock(tmp_path, patience=30, waiting=waiting) as lease:
        assert worker.wait(timeout=5) == -signal.SIGKILL
        own = hold_worker_lock(tmp_path, lease.token)
        own.close()
    assert len(said) == 1
    assert "waiting up to 30 s" in said[0]


def test_orphans_that_do_not_end_are_reported(tmp_path: Path, started: Processes) -> None:
    process, token = driver(started, tmp_path)
    start(started, WORKER, tmp_path, token)
    process.kill()
    with pytest.raises(SweepConflict, match=r"still run after 0\.2 s.*lsof"):
        FolderLock(tmp_path, patience=0.2).__enter__()
    with pytest.raises(SweepConflict, match="still run"):  # and the lease was given back
        FolderLock(tmp_path, patience=0.0).__enter__()


def test_two_orphans_are_both_waited_for(tmp_path: Path, started: Processes) -> None:
    process, token = driver(started, tmp_path)
    # The second one's line would not come if the first kept it waiting.
    workers = [start(started, WORKER, tmp_path, token)[0] for _ in range(2)]
    process.kill()
    workers[0].kill()
    with pytest.raises(SweepConflict):
        FolderLock(tmp_path, patience=0.3).__enter__()
    workers[1].kill()
    with FolderLock(tmp_path, patience=30):
        pass


def test_a_worker_that_starts_after_its_command_was_replaced_ends(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as first:
        pass
    with FolderLock(tmp_path) as second:
        with pytest.raises(SweepConflict, match="no longer holds"):
            hold_worker_lock(tmp_path, first.token)
        hold_worker_lock(tmp_path, second.token).close()
    with FolderLock(tmp_path, patience=0.0):  # the refused worker holds nothing
        pass


@pytest.mark.parametrize("other", ["missing", "empty", "of an earlier sweep"])
def test_a_machine_that_does_not_see_the_folder_is_told_so(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path on two machines: another disk."""
    monkeypatch.setattr("orchestrator.storage.folder_lock._SIGHT_S", 0.1)
    there = tmp_path / "there"
    if other == "empty":
        there.mkdir()
    if other == "of an earlier sweep":
        with FolderLock(there):
            pass
    before = sorted(there.glob("*"))
    with FolderLock(tmp_path / "here") as lease, pytest.raises(SweepConflict) as caught:
        hold_worker_lock(there, lease.token)
    text = str(caught.value)
    assert f"'{there}' on host {socket.gethostname()} is not the folder" in text
    assert "must be shared (NFS at one path, or --out s3://" in text
    assert sorted(there.glob("*")) == before, "nothing is made there"


def test_a_share_may_show_the_lease_a_moment_later(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lease:
        holder = (tmp_path / HOLDER).rename(tmp_path / "unseen")
        threading.Timer(0.2, lambda: holder.rename(tmp_path / HOLDER)).start()
        hold_worker_lock(tmp_path, lease.token).close()


def test_a_forked_child_does_not_keep_the_lease(tmp_path: Path, started: Processes) -> None:
    process, _ = driver(started, tmp_path, FORKING)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        with FolderLock(tmp_path):
            os.kill(child, 0)  # alive, and yet the lease was free
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_program_does_not_keep_the_lease(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with FolderLock(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_many_commands_at_once_get_it_one_after_the_other(
    tmp_path: Path, started: Processes
) -> None:
    """Four loops of commands; whoever gets the lease makes a folder that must not exist."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from orchestrator.errors import SweepConflict\n"
        "from orchestrator.storage.folder_lock import FolderLock\n"
        "out, taken = Path(sys.argv[1]), 0\n"
        "while taken < 20:\n"
        "    try:\n"
        "        with FolderLock(out):\n"
        "            (out / 'alone').mkdir(); time.sleep(0.001); (out / 'alone').rmdir()\n"
        "            taken += 1\n"
        "    except SweepConflict: pass\n"
        "print('done', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started.extend(subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4))
    assert [process.communicate(timeout=60)[0] for process in started] == ["done\n"] * 4


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file/out.*cannot be written.*--out"):
        FolderLock(tmp_path / "file" / "out").__enter__()


def test_a_damaged_holder_file_still_refuses(tmp_path: Path, started: Processes) -> None:
    driver(started, tmp_path)
    (tmp_path / HOLDER).write_text("[")
    with pytest.raises(SweepConflict, match="another command is running"), FolderLock(tmp_path):
        pass


def test_the_lease_ends_with_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path):
        raise ZeroDivisionError
    with FolderLock(tmp_path):
        assert os.path.exists(tmp_path / HOLDER)
