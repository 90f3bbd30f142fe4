"""Where CI needs the launches, a machine that cannot simulate hosts is a failure, not a skip."""

from __future__ import annotations

import os

import pytest

from tests.cluster.support import why_not


def pytest_collection_finish(session: pytest.Session) -> None:
    required = os.environ.get("CLUSTER_TESTS") == "required"
    if required and why_not() and any("cluster" in item.keywords for item in session.items):
        pytest.exit(f"the launches are required and cannot run: {why_not()}", returncode=1)
