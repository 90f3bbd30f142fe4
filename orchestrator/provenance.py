"""Provenance of a result: code version, package versions, host; and what this process imports."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator import __version__

_PACKAGES = ("torch", "timm", "ray", "optuna", "mlflow", "numpy")


@cache
def code_version() -> str:
    """The package version; in a git checkout `VERSION+gCOMMIT`, `.dirty` with local changes."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return __version__
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{described.stdout.strip()}"


@cache
def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def host() -> str:
    """This machine's name."""
    return platform.node()


def import_path() -> list[str]:
    """The folders that this process imports from, absolute, the first one first."""
    return list(dict.fromkeys(map(os.path.abspath, sys.path)))


def import_variables() -> dict[str, str]:
    """Environment variables with which another process of this Python imports what this one does.

    Without them `python -m` would look into the current folder first, whatever lies there.
    """
    return {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}
