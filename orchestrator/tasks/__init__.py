"""Suites as rows of data."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import unknown
from orchestrator.spec import Suite
from orchestrator.tasks.mini import MINI

SUITES: Mapping[str, Suite] = {row.name: row for row in (MINI,)}


def suite(name: str) -> Suite:
    """The suite of that name; `InvalidInput` with the alternatives otherwise."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return SUITES[name]
