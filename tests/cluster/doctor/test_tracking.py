"""Whether tracking answers; looking makes nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.cluster.doctor import tracking
from orchestrator.cluster.doctor.tracking import reach


@contextmanager
def _server(code: int, body: str = "") -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_says_its_version() -> None:
    with _server(200, "3.17.2\n") as uri:
        found = reach(uri)
    assert (found.where, found.problem, found.doubt) == (f"{uri}, MLflow 3.17.2", "", "")


def test_a_server_that_asks_who_you_are_is_a_doubt() -> None:
    with _server(401) as uri:
        found = reach(uri)
    assert "401" in found.doubt
    assert "MLFLOW_TRACKING_USERNAME" in found.fix


def test_something_else_at_the_address_is_a_problem() -> None:
    with _server(500) as uri:
        assert "not as MLflow does (HTTP 500)" in reach(uri).problem


def test_a_stopped_server_is_a_problem_without_secrets() -> None:
    with _server(200) as uri:
        gone = uri.replace("http://", "http://me:geheim@")
    found = reach(gone)
    assert "does not answer" in found.problem
    assert "orchestrate track" in found.fix
    assert "geheim" not in str(found)


def test_a_database_that_does_not_answer_is_a_problem_without_secrets() -> None:
    found = reach("postgresql://me:geheim@127.0.0.1:9/runs")
    assert "does not answer" in found.problem
    assert "geheim" not in str(found)


def test_a_sqlite_file_is_opened_read_only_and_never_made(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mlflow.db"
    assert "made when the sweep starts" in reach(f"sqlite:///{file}").where
    assert list(tmp_path.iterdir()) == []
    file.parent.mkdir()
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
    made.close()
    before = file.stat().st_mtime_ns
    assert reach(f"sqlite:///{file}").problem == ""
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"no database, but long enough to be looked at")
    assert "is no database" in reach(f"sqlite:///{file}").problem


def test_sqlite_on_a_share_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "filesystem", lambda _: "nfs4")
    assert "SQLite on nfs4" in reach(f"sqlite:///{tmp_path}/mlflow.db").doubt


@pytest.mark.parametrize("uri", ["/mnt/mlruns", "file:///mnt/mlruns"])
def test_folders_are_refused_as_mlflow_does(uri: str) -> None:
    assert "MLflow refuses folders" in reach(uri).problem


@pytest.mark.long
def test_a_postgres_that_runs_and_one_that_stopped() -> None:
    from tests.tracking.postgres import private_postgres, skip_without

    skip_without()
    with private_postgres() as running:
        uri = running.make("looked_at")
        assert reach(uri).problem == ""
        assert running.ask("looked_at", "SELECT * FROM pg_tables WHERE schemaname = 'public'") == []
        missing = reach(uri.replace("/looked_at?", "/never_made?"))
        assert "refuses" in missing.problem
        assert "never_made" in missing.problem
    assert "refuses" in reach(uri).problem
