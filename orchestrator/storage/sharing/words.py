"""Places, machines and errors in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.storage.addresses import location

_MOST_NAMES = 4


def is_uri(place: str | Path) -> bool:
    """Whether a place is an address (s3://…) and not a path; `file://` counts as a path's."""
    return "://" in str(place)


def said(error: Exception) -> str:
    """An error in one short line without credentials."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = text.splitlines()[0].rstrip(".")
    return " ".join(location(word) for word in line.split())


def told(problems: Mapping[str, str]) -> str:
    """Machine → what is wrong with it, in one phrase; machines with the same trouble together.

    Empty if nothing is wrong with any of them.
    """
    names: dict[str, list[str]] = {}
    for name, why in problems.items():
        if why:
            names.setdefault(why, []).append(name)
    return "; ".join(f"{listed(some)}: {why}" for why, some in names.items())


def listed(names: Sequence[str]) -> str:
    """Names of machines in one phrase; of many, the first few and how many more there are."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} more"
