"""What made a result: code version, package versions, host."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator import __version__

_PACKAGES = ("torch", "timm", "ray", "optuna", "mlflow", "numpy")


@cache
def code_version() -> str:
    """`version`; in a git checkout `version+gCOMMIT`, with `.dirty` after local changes."""
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
    """Installed versions of what can change a result; absent packages are left out."""
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
