"""Suites: those that come with the package, and users' own ones from YAML files."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import unknown
from orchestrator.spec import Suite
from orchestrator.tasks.suites import SUITES

__all__ = ["SUITES", "suite"]


def suite(name: str) -> Suite:
    """The suite of that name, or the one that the YAML file at that path describes.

    A path ends in .yaml or .yml, or has a slash. Raises `InvalidInput` with the alternatives for an
    unknown name, or with everything that is wrong in the file.
    """
    if name in SUITES:
        return SUITES[name]
    if name.endswith((".yaml", ".yml")) or "/" in name:
        from orchestrator.tasks.own import read_suite  # loads pydantic, which names do not need

        return read_suite(Path(name))
    raise unknown("suite", name, [*SUITES, "PATH.yaml (your own)"])
