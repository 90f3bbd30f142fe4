"""From what was found out to lines for a person. Pure functions; nothing is looked at here."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.cluster.doctor import machines, shared, software
from orchestrator.cluster.doctor.lines import Line
from orchestrator.cluster.doctor.records import Examination

_JUDGES = (
    software.cluster,
    software.code,
    software.versions,
    machines.cores,
    machines.memory,
    machines.disk,
    machines.gpus,
    machines.clocks,
    shared.shared,
    shared.locks,
    shared.data,
    shared.weights,
    shared.tracking,
    software.troubles,
)


def judge(found: Examination) -> list[Line]:
    """One line or more for each subject, in the order in which a person would look."""
    return [line for judged in _JUDGES for line in judged(found)]


def verdict(lines: Iterable[Line]) -> str:
    """How many of them want something of the person who reads."""
    levels = [line.level for line in lines]
    wrong, warnings = levels.count("wrong"), levels.count("warn")
    told = f"{wrong} wrong" if wrong else "nothing is wrong"
    if not warnings:
        return told
    return f"{told}, {warnings} warning{'s' if warnings > 1 else ''}"
