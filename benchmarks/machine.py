"""What a figure was measured on, and results as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def facts(*packages: str) -> dict[str, Any]:
    """Machine, versions and commit."""
    return {
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
    }


def accelerator(device: str) -> dict[str, Any]:
    """What torch computes on: the GPU with its driver, or how many threads of the CPU."""
    import torch

    if device == "cpu":
        return {"name": "cpu", "threads": torch.get_num_threads()}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "name": torch.cuda.get_device_name(),
        "memory_mib": torch.cuda.get_device_properties(0).total_memory // 2**20,
        "driver": asked.stdout.strip(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def write(name: str, content: dict[str, Any]) -> Path:
    """Writes `benchmarks/results/<name>.json`."""
    return save(RESULTS / f"{name}.json", content)


def save(path: Path, content: dict[str, Any]) -> Path:
    """Writes a result as JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
