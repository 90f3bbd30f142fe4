"""Fixtures that several rooms share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from orchestrator import sweep, tasks
from orchestrator.cli import main as cli
from orchestrator.data.prepared.prepare import prepare_tasks
from orchestrator.tracking.process import TrackingOutcome
from tests.commands import Here

os.environ.pop("MLFLOW_TRACKING_URI", None)  # a person's own server is not for tests


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With two workers, tests that may take minutes come first in each worker's half.

    Without workers the order stays: fixtures of a module are made once.
    """
    if not hasattr(config, "workerinput"):
        return
    slow = [item for item in items if item.get_closest_marker("timeout")]
    quick = [item for item in items if not item.get_closest_marker("timeout")]
    half = len(quick) // 2
    items[:] = [*slow[::2], *quick[:half], *slow[1::2], *quick[half:]]


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data store, for all workers of pytest-xdist; sweeps prepare in it what they need."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "data"


@pytest.fixture(scope="session")
def mini_data(data_root: Path) -> Path:
    """The same with the whole suite `mini`."""
    suite = tasks.suite("mini")
    prepare_tasks(suite, suite.tasks, data_root, None)
    return data_root


class Untracked:
    """In place of the process that writes to MLflow, whose start takes seconds."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> Untracked:
        return self

    def finish(self, **_: object) -> TrackingOutcome:
        return TrackingOutcome(True)

    def stop(self) -> None:
        pass


@pytest.fixture
def here(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Here]:
    """Runs `orchestrate` in this process: checks the exit code, returns all it printed.

    Spares the start of an interpreter; a traceback would fail the test by itself. A sweep that has
    to reach MLflow is run by `commands.run`.
    """
    monkeypatch.setattr(sweep, "TrackingProcess", Untracked)
    monkeypatch.setenv("ORCHESTRATE_DATA", str(data_root))
    monkeypatch.setenv("COLUMNS", "200")
    for suite in tasks.SUITES.values():
        if suite.variable:
            monkeypatch.delenv(suite.variable, raising=False)
    torch.set_num_threads(1)

    def call(arguments: list[str], code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["orchestrate", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        text = " ".join("".join(capfd.readouterr()).split())
        assert ended.value.code == code, text
        return text

    yield call
    cli.INTERRUPTS.close()
