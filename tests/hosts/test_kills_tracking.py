"""The kill matrix, MLflow: no sweep depends on it, and afterwards it gets everything."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.results.sweep_file import read_sweep
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tracking.tracker import SWEEP
from tests.commands import results
from tests.hosts.rack import wait_for, why_not
from tests.hosts.reliability import line
from tests.hosts.standing import DATABASE, SHARED, Command, Standing
from tests.hosts.sweeps import NOWHERE, RUNS, TRIALS, amid, finish
from tests.tracking.database import stored

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(600),
]
ADDRESS = "http://127.0.0.1:5000"
SERVER = (
    f"env MLFLOW_BACKEND_STORE_URI={RUNS} "
    "python -m orchestrator.tracking.server --foreground --artifacts /tmp/artifacts"
)


def test_mlflow_is_away_for_the_whole_sweep(standing: Standing, calm: Path) -> None:
    with line("no tracker") as mine:
        disturbed, command = amid(standing, "no-tracker", 0, tracking=NOWHERE)
        said = finish(command)
        disturbed.check(calm)
        typed = f"orchestrate track {SHARED}/no-tracker --tracking-uri {NOWHERE}"
        assert typed in said
        assert _trials(standing, disturbed.folder) == set()
        assert "MLflow has everything" in standing.run(typed.replace(NOWHERE, RUNS))
        runs = _trials(standing, disturbed.folder)
        assert runs == set(results(disturbed.folder))
        mine.found = f"written afterwards: {len(runs)} of {TRIALS}"


def test_mlflow_is_killed_in_the_middle(standing: Standing, calm: Path) -> None:
    with line("tracker") as mine:
        server = _serve(standing)
        disturbed, command = amid(standing, "tracker", 0.5, tracking=ADDRESS)
        server.kill()
        said = finish(command)
        disturbed.check(calm)
        before = len(_trials(standing, disturbed.folder))
        typed = f"orchestrate track {SHARED}/tracker --tracking-uri {ADDRESS}"
        assert typed in said
        server = _serve(standing)
        assert "MLflow has everything" in standing.run(typed)
        server.kill()
        assert _trials(standing, disturbed.folder) == set(results(disturbed.folder))
        mine.found = f"written before: {before} of {TRIALS}, afterwards all, each once"


def _serve(standing: Standing) -> Command:
    """MLflow's server on the head's loopback, once it answers."""
    server = standing.start(SERVER)
    url = f"{ADDRESS}/health"
    ask = f"python -c 'import urllib.request as web; web.urlopen(\"{url}\")' 2> /dev/null"

    def answers() -> bool:
        assert not server.ended, server.text
        return standing.hosts.run(standing.head, ask, check=False).code == 0

    wait_for("MLflow's server", answers, 120, pause=0.5)
    return server


def _trials(standing: Standing, folder: Path) -> set[str]:
    """The keys of a sweep's trials that MLflow holds; fails when one has two runs."""
    with tempfile.TemporaryDirectory() as copy:
        # SQLite follows links by itself, and those of a host lead elsewhere here.
        home = standing.hosts.path(standing.head, DATABASE).parent
        for file in home.glob(f"{Path(DATABASE).name}*"):
            shutil.copyfile(file, Path(copy) / file.name)
        runs = stored(
            folder,
            read_sweep(SweepPaths(folder)).id,
            partial(_ask, Path(copy) / Path(DATABASE).name),
        )
    return {key for key in runs if ":" not in key and key != SWEEP}


def _ask(database: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute(question).fetchall()
