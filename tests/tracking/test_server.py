"""The head's MLflow server as a process: started once, ended whole. With SQLite, to be quick."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.tracking import server
from orchestrator.tracking.environment import URI_VARIABLE
from orchestrator.tracking.locations import chosen_uri, default_uri, sqlite_file
from orchestrator.tracking.mlflow import track
from tests.tracking.database import check_agrees
from tests.tracking.synthetic import append, results
from tests.tracking.test_ui import free_port, processes_on


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
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        port = int(other.getsockname()[1])
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


def test_an_address_is_given_or_mlflows_own_or_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_uri(tmp_path, None) == default_uri(tmp_path)
    monkeypatch.setenv(URI_VARIABLE, "")
    assert sqlite_file(chosen_uri(tmp_path, None)) == tmp_path / "mlflow.db"
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:5000")
    assert chosen_uri(tmp_path, None) == "http://127.0.0.1:5000"
    assert chosen_uri(tmp_path, "sqlite:///mine.db") == "sqlite:///mine.db"


def test_a_missing_driver_is_named(sweep: Path) -> None:
    with pytest.raises(TrackingError, match=r"pip install \"psycopg\[binary\]\"") as caught:
        track(sweep, "postgresql+pg8000:///mlflow?host=/nowhere")
    assert re.search("No module named .pg8000", str(caught.value))
