"""Inspections as the doctor collects them, without a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import tasks
from orchestrator.cluster.doctor.checks import GIB, check_all
from orchestrator.cluster.doctor.records import (
    Finding,
    Inspection,
    Machine,
    ProbeResult,
    TrackingStatus,
)
from orchestrator.data.prepared.store import Present
from orchestrator.storage.sharing import MarkerReply

SUITE = tasks.suite("mini")
VERSIONS = {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0.31", "mlflow": "3.17.2"}
HEALTHY = ProbeResult(
    versions=tuple(VERSIONS.items()),
    code=(("orchestrator/sweep.py", "aa"), ("orchestrator/spec.py", "bb")),
    cores=8,
    memory_free=16 * GIB,
    tmp_free=50 * GIB,
    out_free=100 * GIB,
    data=tuple(Present(task.name, "f1") for task in SUITE.tasks),
    weights="c0ffee",
    out_reply=MarkerReply(kind="nfs4", locks="kept"),
)
NAMES = ("head", "worker1", "worker2")


def healthy_cluster(**nodes: Machine | None) -> Inspection:
    """Three healthy nodes; each may be replaced."""
    machines = {name: Machine(name, HEALTHY, ray_gpus=0, ahead=0.01) for name in NAMES}
    machines |= {name: machine for name, machine in nodes.items() if machine}
    return Inspection(
        here=Machine("this machine", HEALTHY),
        nodes=tuple(machines.values()),
        address="auto",
        out="/mnt/shared/mini",
        out_kind="nfs4",
        locks="kept",
        tracking=TrackingStatus("http://127.0.0.1:5000, MLflow 3.17.2"),
        suite=SUITE,
        data_root=Path("/mnt/shared/data"),
        backbone="vit_mini",
    )


def one_changed(machine: dict[str, Any] | None = None, **probe: Any) -> Inspection:
    """The cluster in which worker2 differs, in its probe or in what else is known of it."""
    given = {"ray_gpus": 0, "ahead": 0.01, **(machine or {})}
    return healthy_cluster(worker2=Machine("worker2", replace(HEALTHY, **probe), **given))


def single(**probe: Any) -> Inspection:
    """One machine, without an address."""
    found = replace(healthy_cluster(), nodes=(), address=None)
    return replace(found, here=Machine("this machine", replace(HEALTHY, **probe)))


def findings_on(subject: str, found: Inspection) -> list[Finding]:
    """The findings on one subject."""
    return [finding for finding in check_all(found) if finding.subject == subject]


def problem(subject: str, found: Inspection) -> Finding:
    """The only error or warning of the inspection, which is on this subject."""
    (finding,) = (finding for finding in check_all(found) if finding.level in ("warn", "wrong"))
    assert finding.subject == subject, finding
    assert finding.fix, "every problem says what to do"
    return finding
