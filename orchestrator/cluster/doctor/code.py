"""Fingerprints of the project's own files, to tell whether every node runs the same code."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("adapters", "orchestrator", "search_spaces")
_SUFFIXES = (".py", ".yaml")
_DIGITS = 12


def fingerprints() -> tuple[tuple[str, str], ...]:
    """(file, digest) of every source file that this process would import, sorted."""
    return tuple(sorted(pair for package in PACKAGES for pair in _of(package)))


def whole(files: tuple[tuple[str, str], ...]) -> str:
    """One digest for all of them."""
    return hashlib.sha256(repr(sorted(files)).encode()).hexdigest()[:_DIGITS]


def differences(mine: tuple[tuple[str, str], ...], other: tuple[tuple[str, str], ...]) -> list[str]:
    """The files that differ, or that only one of them has."""
    return sorted({name for name, _ in set(mine) ^ set(other)})


def _of(package: str) -> list[tuple[str, str]]:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        return []
    root = Path(found.submodule_search_locations[0])
    files = sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES)
    return [(f"{package}/{file.relative_to(root).as_posix()}", _digest(file)) for file in files]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGITS]
