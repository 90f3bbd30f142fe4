"""What a cluster's head has: PostgreSQL, MLflow's server on loopback, several sweeps at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.results.ledger import Ledger
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tracking import server
from orchestrator.tracking.locations import URI_VARIABLE
from tests.commands import run, small_sweep, start
from tests.tracking.database import check_agrees
from tests.tracking.postgres import Postgres, private_postgres, skip_without
from tests.tracking.test_server import free_port, processes_on

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    skip_without()
    with private_postgres() as running:
        yield running


def _serve(home: Path, port: int, *options: str) -> str:
    command = [sys.executable, "-m", "orchestrator.tracking.server", "--home", str(home)]
    command += ["--port", str(port), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _agrees(postgres: Postgres, name: str, out: Path) -> str:
    """The database holds the sweep in `out`, each trial once; the id of the sweep's own run."""
    sweep = json.loads(SweepPaths(out).sweep.read_text())["id"]
    rows = Ledger(SweepPaths(out).ledger).results()
    assert len(rows) > 10
    return check_agrees(out, rows, sweep, partial(postgres.ask, name))["sweep"].id


def test_two_sweeps_at_once_through_one_server(
    postgres: Postgres, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, home, artifacts = free_port(), tmp_path / "server", tmp_path / "artifacts"
    monkeypatch.setenv(server.DATABASE_VARIABLE, postgres.make("shared"))
    monkeypatch.setenv(URI_VARIABLE, f"http://127.0.0.1:{port}")
    outs = [tmp_path / name / "out" for name in ("one", "two")]
    for out in outs:
        out.parent.mkdir()
    try:
        said = f"MLflow's server runs: http://127.0.0.1:{port}"
        assert _serve(home, port, "--artifacts", str(artifacts)) == said
        assert len(processes_on(port)) == 2, "MLflow's command and its one worker"

        sweeps = [start(small_sweep(out, "local"), data_root) for out in outs]
        for sweep in sweeps:
            text, _ = sweep.communicate(timeout=300)
            assert sweep.returncode == 0, text
            assert "does not work" not in text
        for out in outs:
            assert not (out / "mlflow.db").exists()
            top = _agrees(postgres, "shared", out)
            (report,) = artifacts.glob(f"*/{top}/artifacts/report.html")
            assert report.read_bytes() == SweepPaths(out).report.read_bytes()

        before = postgres.content("shared")
        for out in outs:
            assert "none of them written now" in run(["track", str(out)], data_root).stdout
        assert postgres.content("shared") == before

        shelves = postgres.ask("shared", "SELECT name FROM experiments ORDER BY experiment_id")
        assert shelves == [("Default",), ("orchestrate/garden/vit_mini",)]
    finally:
        ended = _serve(home, port, "--stop")
    assert ended == "MLflow's server has ended"
    assert processes_on(port) == []

    # The same rows, straight to an empty database, by two commands at once. MLflow makes its tables
    # without a lock, so one of them may come too late; it says so, and typed again it works.
    uri = postgres.make("straight")
    again = [["track", str(out), "--tracking-uri", uri] for out in outs]
    tracks = [start(command, data_root) for command in again]
    for track in tracks:
        text, _ = track.communicate(timeout=120)
        assert track.returncode == 0 or "does not work: (psycopg.errors." in text, text
    assert 0 in {track.returncode for track in tracks}
    for out, command in zip(outs, again, strict=True):
        assert run(command, data_root).returncode == 0
        _agrees(postgres, "straight", out)
