"""Examinations as the doctor would bring them home, without a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import tasks
from orchestrator.cluster.doctor.findings import judge
from orchestrator.cluster.doctor.lines import Line
from orchestrator.cluster.doctor.machines import GIB
from orchestrator.cluster.doctor.records import Examination, Machine, Probe, Reach
from orchestrator.data.prepared.store import Present
from orchestrator.storage.sharing import Sight

SUITE = tasks.suite("mini")
VERSIONS = {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0.31", "mlflow": "3.17.2"}
WELL = Probe(
    versions=tuple(VERSIONS.items()),
    code=(("orchestrator/sweep.py", "aa"), ("orchestrator/spec.py", "bb")),
    cores=8,
    memory_free=16 * GIB,
    tmp_free=50 * GIB,
    out_free=100 * GIB,
    data=tuple(Present(task.name, "f1") for task in SUITE.tasks),
    weights="c0ffee",
    sight=Sight(kind="nfs4", locks="kept"),
)
NAMES = ("head", "worker1", "worker2")


def cluster(**nodes: Machine | None) -> Examination:
    """Three well nodes; each may be replaced."""
    machines = {name: Machine(name, WELL, ray_gpus=0, ahead=0.01) for name in NAMES}
    machines |= {name: machine for name, machine in nodes.items() if machine}
    return Examination(
        here=Machine("this machine", WELL),
        nodes=tuple(machines.values()),
        address="auto",
        out="/mnt/shared/mini",
        out_kind="nfs4",
        locks="kept",
        tracking=Reach("http://127.0.0.1:5000, MLflow 3.17.2"),
        suite=SUITE,
        data_root=Path("/mnt/shared/data"),
        backbone="vit_mini",
    )


def one_ill(machine: dict[str, Any] | None = None, **probe: Any) -> Examination:
    """The cluster in which worker2 differs, in its probe or in what else is known of it."""
    given = {"ray_gpus": 0, "ahead": 0.01, **(machine or {})}
    return cluster(worker2=Machine("worker2", replace(WELL, **probe), **given))


def alone(**probe: Any) -> Examination:
    """One machine, without an address."""
    found = replace(cluster(), nodes=(), address=None)
    return replace(found, here=Machine("this machine", replace(WELL, **probe)))


def lines_on(subject: str, found: Examination) -> list[Line]:
    """The lines on one subject."""
    return [line for line in judge(found) if line.subject == subject]


def trouble(subject: str, found: Examination) -> Line:
    """The one line on this subject that is neither ok nor a note; nothing else is amiss."""
    (line,) = (line for line in judge(found) if line.level in ("warn", "wrong"))
    assert line.subject == subject, line
    assert line.fix, "a person wants to know what to do"
    return line
