"""What this machine says of itself. Plain Python: it runs here and on every node."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.cluster.doctor import code, heavy
from orchestrator.cluster.doctor.records import Gpu, Probe, Question
from orchestrator.data.prepared.presence import presence
from orchestrator.storage.sharing import check_marker, is_uri

PACKAGES = ("torch", "timm", "ray", "optuna", "mlflow", "pyarrow", "safetensors", "numpy")
SECONDS = 60.0
"""What torch may take to be imported and to look at GPUs and weights."""
_SMI = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
_CGROUP = Path("/sys/fs/cgroup")


def examine(question: Question) -> Probe:
    """Looks at everything that is asked for; what cannot be looked at becomes one of `troubles`.

    Leaves nothing: no process, no memory on a GPU, no file but the answer to a sign.
    """
    probe = Probe()
    for look_at in (_software, _machine, _driver, _torch, _data, _out):
        probe = _looked(look_at, question, probe)
    return probe


def _looked(
    look_at: Callable[[Question], dict[str, Any]], question: Question, probe: Probe
) -> Probe:
    try:
        return replace(probe, **look_at(question))
    except Exception as error:  # one look that fails is a finding, and the others go on
        name = look_at.__name__.strip("_")
        return replace(probe, troubles=(*probe.troubles, f"{name}: {error}"))


def _software(_: Question) -> dict[str, Any]:
    found = [("python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)]
    return {"versions": tuple(found), "code": code.fingerprints()}


def _machine(_: Question) -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_free": _free_memory(),
        "tmp_free": shutil.disk_usage("/tmp").free,
    }


def _driver(_: Question) -> dict[str, Any]:
    """What NVIDIA's driver shows, whatever torch makes of it."""
    if shutil.which(_SMI[0]) is None:
        return {}
    done = subprocess.run(_SMI, capture_output=True, text=True, timeout=20)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"nvidia-smi: {said[0]}")
    return parse_smi(done.stdout.splitlines())


def parse_smi(lines: Sequence[str]) -> dict[str, Any]:
    """Driver and GPUs from `nvidia-smi`'s table of driver version and name."""
    rows = [line.partition(",") for line in lines if line.strip()]
    if not rows:
        return {}
    return {
        "driver": rows[0][0].strip(),
        "driver_gpus": tuple(name.strip() for _, _, name in rows),
    }


def _torch(question: Question) -> dict[str, Any]:
    found = heavy.look(question.backbone, SECONDS)
    return {**found, "gpus": tuple(Gpu(**gpu) for gpu in found["gpus"])}


def _data(question: Question) -> dict[str, Any]:
    if not question.store:
        return {}
    sign = question.data_sign
    return {
        "data": presence(question.store, question.tasks, question.data_root),
        "data_sight": check_marker(sign) if sign else None,
    }


def _out(question: Question) -> dict[str, Any]:
    if not question.out:
        return {}
    folder = None if is_uri(question.out) else Path(question.out)
    free = shutil.disk_usage(_existing(folder)).free if folder else None
    return {"out_free": free, "sight": check_marker(question.sign) if question.sign else None}


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _free_memory() -> int:
    """Bytes that are free for a process; a container's own limit counts."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable"))
    free = int(line.split()[1]) * 1024
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no limit
        return free
    return min(free, limit - used)
