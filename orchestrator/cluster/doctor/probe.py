"""What one machine reports about itself. Plain Python: it runs here and on every node."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.cluster.doctor import torch_probe
from orchestrator.cluster.doctor.records import Gpu, ProbeRequest, ProbeResult
from orchestrator.data.prepared.store import presence
from orchestrator.errors import BackendError
from orchestrator.provenance import import_path
from orchestrator.storage.sharing import check_marker, is_uri

PACKAGES = ("torch", "timm", "ray", "optuna", "mlflow", "pyarrow", "safetensors", "numpy")
"""Packages whose versions are reported."""
CODE = ("adapters", "orchestrator", "search_spaces")
"""The project's own packages."""
SECONDS = 60.0
"""Time limit for importing torch and probing GPUs and weights."""
PROBE_SECONDS = 25.0
"""Time limit for every other probe: a share or a server that is away may never answer."""
_SMI = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
_CGROUP = Path("/sys/fs/cgroup")
_DIGITS = 12

T = TypeVar("T")


def probe_machine(request: ProbeRequest) -> ProbeResult:
    """Everything that is requested; a probe that fails or takes too long is added to `troubles`.

    Leaves no process, no GPU memory, and no file but the reply to a marker.
    """
    result = ProbeResult()
    probes = (_software, _ray, _machine, _driver, _torch, _data, _out)
    limits = {probe: SECONDS + 1 if probe is _torch else PROBE_SECONDS for probe in probes}
    asked = {probe: start_probe(limit, probe, request) for probe, limit in limits.items()}
    for probe, answer in asked.items():
        try:
            result = replace(result, **answer())
        except Exception as error:  # a failed probe is a finding, and the others go on
            name = probe.__name__.strip("_")
            result = replace(result, troubles=(*result.troubles, f"{name}: {error}"))
    return result


def start_probe(seconds: float, probe: Callable[..., T], *given: Any) -> Callable[[], T]:
    """Start a call in a thread of its own; returns a function that waits for its result.

    That raises `TimeoutError` once the call has taken `seconds`; the thread is left behind then.
    """
    result: Future[T] = Future()
    until = time.monotonic() + seconds

    def run() -> None:
        try:
            result.set_result(probe(*given))
        except BaseException as error:  # raised where the result is waited for
            result.set_exception(error)

    def answer() -> T:
        done, _ = wait([result], max(until - time.monotonic(), 0))
        if not done:
            raise TimeoutError(f"no answer within {seconds:g} s")
        return result.result()

    threading.Thread(target=run, daemon=True).start()
    return answer


def code_fingerprints() -> tuple[tuple[str, str], ...]:
    """(file, digest) of every source file of the project that this process would import, sorted."""
    found = []
    for package in CODE:
        spec = find_spec(package)
        root = Path(((spec and spec.submodule_search_locations) or [os.devnull])[0])
        for file in (path for path in root.rglob("*") if path.suffix in (".py", ".yaml")):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGITS]
            found.append((f"{package}/{file.relative_to(root).as_posix()}", digest))
    return tuple(sorted(found))


def code_digest(files: Sequence[tuple[str, str]]) -> str:
    """One digest for all of `code_fingerprints`."""
    return hashlib.sha256(repr(sorted(files)).encode()).hexdigest()[:_DIGITS]


def parse_smi(lines: Sequence[str]) -> dict[str, Any]:
    """Driver and GPUs from `nvidia-smi`'s table of driver version and name."""
    rows = [line.partition(",") for line in lines if line.strip()]
    if not rows:
        return {}
    names = tuple(name.strip() for _, _, name in rows)
    return {"driver": rows[0][0].strip(), "driver_gpus": names}


def _software(_: ProbeRequest) -> dict[str, Any]:
    found = [("python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)]
    return {"versions": tuple(found), "code": code_fingerprints(), "hidden": hidden_modules()}


def hidden_modules() -> tuple[tuple[str, str], ...]:
    """(module, folder) of what hides a module of Python, of a package or of the project, because
    its folder is searched before theirs: the current one, or one of $PYTHONPATH.
    """
    installed = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    own = Path(__file__).parents[3]
    found = []
    for folder in map(Path, takewhile(lambda name: name not in installed, import_path())):
        if not folder.is_dir() or any(folder.glob("*.dist-info")):  # packages installed there
            continue
        modules = [*folder.glob("*.py"), *(path.parent for path in folder.glob("*/__init__.py"))]
        names = {path.stem for path in modules} & {*sys.stdlib_module_names, *PACKAGES, *CODE}
        names |= {name for name in CODE if (folder / name).is_dir()}  # hides an editable install
        found += [(name, str(folder)) for name in names - set(CODE if folder == own else ())]
    return tuple(sorted(found))


def _ray(_: ProbeRequest) -> dict[str, Any]:
    from orchestrator.backends.ray_settings import own_folder

    try:
        return {"ray_folder": own_folder() or ""}
    except BackendError as error:
        return {"ray_problem": str(error)}


def _machine(_: ProbeRequest) -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_free": _free_memory(),
        "tmp_free": shutil.disk_usage("/tmp").free,
    }


def _driver(_: ProbeRequest) -> dict[str, Any]:
    """The GPUs that NVIDIA's driver lists, whether torch can use them or not."""
    if shutil.which(_SMI[0]) is None:
        return {}
    done = subprocess.run(_SMI, capture_output=True, text=True, timeout=20)
    if done.returncode:
        output = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"nvidia-smi: {output[0]}")
    return parse_smi(done.stdout.splitlines())


def _torch(request: ProbeRequest) -> dict[str, Any]:
    found = torch_probe.probe_with_torch(request.backbone, SECONDS)
    return {**found, "gpus": tuple(Gpu(**gpu) for gpu in found["gpus"])}


def _data(request: ProbeRequest) -> dict[str, Any]:
    if not request.store:
        return {}
    marker = request.data_marker
    return {
        "data": presence(request.store, request.tasks, request.data_root),
        "data_reply": check_marker(marker) if marker else None,
    }


def _out(request: ProbeRequest) -> dict[str, Any]:
    if not request.out:
        return {}
    free = None
    if not is_uri(request.out):
        folder = Path(request.out)
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
    marker = request.out_marker
    return {"out_free": free, "out_reply": check_marker(marker) if marker else None}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _free_memory() -> int:
    """Bytes that a process can still get; a container's own limit counts."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable"))
    free = int(line.split()[1]) * 1024
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no limit
        return free
    return min(free, limit - used)
