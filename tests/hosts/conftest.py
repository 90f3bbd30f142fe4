"""The cluster that most tests share; with CLUSTER_TESTS=required nothing may be skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.rack import why_not
from tests.hosts.standing import Standing
from tests.hosts.sweeps import Disturbed, prepare, sweep


def pytest_collection_finish(session: pytest.Session) -> None:
    required = os.environ.get("CLUSTER_TESTS") == "required"
    if required and why_not() and any("cluster" in item.keywords for item in session.items):
        pytest.exit(f"the launches are required and cannot run: {why_not()}", returncode=1)


@pytest.fixture(scope="session")
def standing(mini_data: Path) -> Iterator[Standing]:
    """A cluster of a head and a worker, and a spare host, started once for all tests."""
    with Standing(mini_data) as cluster:
        prepare(cluster)
        yield cluster


@pytest.fixture(scope="session")
def calm(standing: Standing) -> Path:
    """The folder of an undisturbed sweep, to which disturbed ones are compared."""
    disturbed = Disturbed(standing.folder("calm"))
    standing.run(sweep("calm"))
    disturbed.check_counts()
    return disturbed.folder
