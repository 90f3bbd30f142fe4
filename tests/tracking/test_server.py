"""MLflow's servers as processes, on SQLite: the head's is started once and ended whole."""

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
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput, TrackingError
from orchestrator.provenance import import_variables
from orchestrator.tracking import server
from orchestrator.tracking.locations import URI_VARIABLE, chosen_uri, default_uri
from orchestrator.tracking.mlflow import track
from orchestrator.tracking.server import ui_command
from tests.commands import heed_interrupts, misleading
from tests.tracking.database import check_agrees
from tests.tracking.synthetic import append, make_sweep, results

SERVE = """
import sys
from pathlib import Path
from orchestrator.tracking.locations import default_uri
from orchestrator.tracking.server import serve
out = Path(sys.argv[1])
sys.exit(serve(out, default_uri(out), port=int(sys.argv[2])))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, process: subprocess.Popen[str], seconds: float = 60.0) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                assert reply.status == 200
                return bytes(reply.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server never answered"
            time.sleep(0.1)


def processes_on(port: int) -> list[int]:
    """Processes with the port among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(port).encode() in arguments:
            found.append(int(folder.name))
    return found


def test_one_server_however_often_it_is_started(
    sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home, port = tmp_path / "home", free_port()
    monkeypatch.setenv(server.DATABASE_VARIABLE, default_uri(sweep))
    monkeypatch.setenv(URI_VARIABLE, f"http://127.0.0.1:{port}")
    try:
        assert server.start(home, str(tmp_path / "artifacts"), port)
        processes = processes_on(port)
        assert len(processes) == 2
        assert not server.start(home, str(tmp_path / "artifacts"), port)
        assert processes_on(port) == processes
        assert f"0100007F:{port:04X}" in Path("/proc/net/tcp").read_text()
        assert f"00000000:{port:04X}" not in Path("/proc/net/tcp").read_text()

        rows = list(results(2))
        append(sweep, rows)
        track(sweep, chosen_uri(sweep, None))
        check_agrees(sweep, rows)
        assert capfd.readouterr().out == "", "MLflow itself would print two lines for every run"
    finally:
        assert server.stop(home)
    assert processes_on(port) == []
    assert not server.stop(home)
    assert server.log_file(home).stat().st_mode & 0o077 == 0


def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(server.DATABASE_VARIABLE, "nonsense://me:hunter2@nowhere/mlflow")
    with pytest.raises(TrackingError, match="MLflow's server does not answer") as caught:
        server.start(tmp_path, str(tmp_path), free_port())
    assert "nonsense://***@nowhere" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not server.stop(tmp_path)


def test_a_port_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    with socket.create_server((server.HOST, 0)) as other:
        port = int(other.getsockname()[1])
        threading.Thread(target=lambda: other.accept()[0].close()).start()
        with pytest.raises(TrackingError, match=rf"port {port} of 127\.0\.0\.1 is taken"):
            server.start(tmp_path, str(tmp_path), port)


def test_the_database_is_no_argument_and_nothing_runs_in_its_background(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:5000")
    monkeypatch.delenv(server.DATABASE_VARIABLE, raising=False)
    settings = server.variables()
    assert settings[server.DATABASE_VARIABLE] == server.DATABASE
    assert settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert URI_VARIABLE not in settings, "it is the server that is meant"
    assert not any("postgres" in word for word in server.command("/artifacts"))
    monkeypatch.setenv(server.DATABASE_VARIABLE, "postgresql://me:secret@other/mlflow")
    assert server.variables()[server.DATABASE_VARIABLE].endswith("@other/mlflow")


def test_a_missing_driver_is_named(sweep: Path) -> None:
    with pytest.raises(TrackingError, match=r"pip install \"psycopg\[binary\]\"") as caught:
        track(sweep, "postgresql+pg8000:///mlflow?host=/nowhere")
    assert re.search("No module named .pg8000", str(caught.value))


def test_the_interface_is_served_on_loopback_and_leaves_no_process(
    sweep: Path, tmp_path: Path
) -> None:
    """Whatever the name of its folder and what lies in the current one."""
    sweep = sweep.rename(tmp_path / "is 50%25 [x] enough?")
    append(sweep, results(1))
    track(sweep)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVE, str(sweep), str(port)],
        cwd=misleading(tmp_path / "cwd"),
        env={**os.environ, **import_variables()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )
    try:
        page = answer(f"http://127.0.0.1:{port}/", process)
        assert b"<html" in page.lower()
        api = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=9"
        shelves = json.loads(answer(api, process))["experiments"]
        assert "orchestrate/mini/vit_mini" in {shelf["name"] for shelf in shelves}
        assert f"0100007F:{port:04X}" in Path("/proc/net/tcp").read_text()
        assert f"00000000:{port:04X}" not in Path("/proc/net/tcp").read_text()
        assert 2 <= len(processes_on(port)) <= 3
        told = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_on(port)]
        assert not any(b"mlflow.db" in words for words in told), "an address may hold a password"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in output
    time.sleep(0.1)
    assert processes_on(port) == []


def test_what_cannot_be_shown_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere.*holds no sweep"):
        ui_command(tmp_path / "nowhere", default_uri(tmp_path / "nowhere"))
    out = make_sweep(tmp_path / "sweep")
    with pytest.raises(TrackingError, match=f"orchestrate track {out}"):
        ui_command(out, default_uri(out))
    with pytest.raises(TrackingError, match="open that address in a browser") as caught:
        ui_command(out, "https://me:hunter2@tracking.example.org")
    assert "hunter2" not in str(caught.value)
