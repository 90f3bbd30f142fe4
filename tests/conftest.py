"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import tasks
from orchestrator.data.sources import prepare_task


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data store with the suite `mini`, made once."""
    root = tmp_path_factory.mktemp("data")
    suite = tasks.suite("mini")
    for task in suite.tasks:
        prepare_task(suite.name, task, root)
    return root
