"""What a finding is, and how machines are named in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from orchestrator.cluster.doctor.records import Examination
from orchestrator.storage.sharing import listed

Level = Literal["ok", "note", "warn", "wrong"]
_K = TypeVar("_K")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Line:
    """One finding: on what, how bad, what was found and, unless it is well, what to do.

    `note` is something that was not looked at, or that need not be.
    """

    subject: str
    level: Level
    text: str
    fix: str = ""


def where(found: Examination, names: Sequence[str], same: bool = False) -> str:
    """` on every node`, or ` on ` the nodes of these names; empty if it is about this machine.

    `same`: that it is the same on all of them goes without saying where there is just one.
    """
    if not found.nodes:
        return ""
    alike = ", the same" if same and len(names) > 1 else ""
    every = len(names) == len(found.nodes) > 1
    return f"{alike} on every node" if every else f"{alike} on {listed(names)}"


def by_value(values: Mapping[str, _K]) -> dict[_K, list[str]]:
    """Value → the machines that have it, in their order."""
    found: dict[_K, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"


def span(counts: Iterable[int]) -> str:
    """The least and the most of some sizes."""
    found = sorted(counts)
    low, high = size(found[0]), size(found[-1])
    return low if low == high else f"{low} to {high}"
