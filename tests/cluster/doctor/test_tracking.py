"""Whether tracking can be used; the check creates nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from orchestrator.cluster.doctor import collect
from orchestrator.cluster.doctor.collect import tracking_status
from tests.http_server import http_server

VERSION = "GET /version"


def test_a_server_is_asked_for_its_version() -> None:
    with http_server({VERSION: (200, "3.17.2\n")}) as uri:
        found = tracking_status(uri)
        assert (found.where, found.problem, found.risk) == (f"{uri}, MLflow 3.17.2", "", "")
    with http_server({VERSION: (401, "")}) as uri:
        found = tracking_status(uri)
        assert "401" in found.risk
        assert "MLFLOW_TRACKING_USERNAME" in found.fix
    with http_server({VERSION: (500, "")}) as uri:
        assert "is not an MLflow server (HTTP 500)" in tracking_status(uri).problem


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_what_does_not_answer_is_a_problem_without_secrets(scheme: str) -> None:
    found = tracking_status(f"{scheme}://me:geheim@127.0.0.1:9/runs")
    assert "does not answer" in found.problem
    assert "start it" in found.fix
    assert "geheim" not in str(found)


def test_a_sqlite_file_is_opened_read_only_and_never_made(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mlflow.db"
    assert "created when the sweep starts" in tracking_status(f"sqlite:///{file}").where
    assert list(tmp_path.iterdir()) == []
    file.parent.mkdir()
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
    made.close()
    before = file.stat().st_mtime_ns
    assert tracking_status(f"sqlite:///{file}").problem == ""
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"no database, but long enough to be looked at")
    assert "is not an MLflow database" in tracking_status(f"sqlite:///{file}").problem


def test_sqlite_on_a_share_is_a_risk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "filesystem", lambda _: "nfs4")
    assert "SQLite on nfs4" in tracking_status(f"sqlite:///{tmp_path}/mlflow.db").risk


@pytest.mark.parametrize("uri", ["/mnt/mlruns", "file:///mnt/mlruns"])
def test_folders_are_refused_as_mlflow_does(uri: str) -> None:
    assert "MLflow refuses folders" in tracking_status(uri).problem


@pytest.mark.long
def test_a_postgres_that_runs_and_one_that_stopped() -> None:
    from tests.tracking.postgres import private_postgres, skip_without

    skip_without()
    with private_postgres() as running:
        uri = running.make("looked_at")
        assert tracking_status(uri).problem == ""
        assert running.ask("looked_at", "SELECT * FROM pg_tables WHERE schemaname = 'public'") == []
        missing = tracking_status(uri.replace("/looked_at?", "/never_made?"))
        assert "refuses" in missing.problem
        assert "never_made" in missing.problem
    assert "refuses" in tracking_status(uri).problem
