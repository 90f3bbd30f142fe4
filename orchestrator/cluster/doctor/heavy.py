"""The looks that need torch: GPUs and weights. A process of its own, whose end frees the devices.

`python -m orchestrator.cluster.doctor.heavy` reads the backbone's name (or nothing) from its
input and prints one line of JSON, the last of its output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestrateError

_OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
"""What is not in the cache is not downloaded: the doctor only looks."""


def look(backbone: str, seconds: float) -> dict[str, Any]:
    """What the process found: fields of `Probe`. `OSError` or `RuntimeError` if it did not."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=backbone,
            env={**os.environ, **_OFFLINE, "PYTHONPATH": _path()},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"torch was not ready after {seconds:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"torch cannot be used: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def devices() -> dict[str, Any]:
    """What torch says of the GPUs."""
    import torch

    found: dict[str, Any] = {"cuda": torch.version.cuda or "", "gpus": []}
    if not torch.version.cuda:
        return found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()  # type: ignore[no-untyped-call]
        for index in range(torch.cuda.device_count()):
            with torch.cuda.device(index):
                about = torch.cuda.get_device_properties(index)
                bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            found["gpus"].append({"name": about.name, "memory": about.total_memory, "bf16": bf16})
    except (RuntimeError, AssertionError) as error:  # no driver, or one that is too old
        found["gpu_problem"] = str(error).strip().splitlines()[0].rstrip(".")
    return found


def weights(backbone: str) -> dict[str, Any]:
    """The fingerprint of a backbone's weights, as far as they are on this machine."""
    from orchestrator.backbones import MINI, fingerprint

    try:
        return {"weights": fingerprint(backbone)}
    except (OrchestrateError, OSError) as error:
        hub = "@" not in backbone and backbone != MINI
        return {"weights_problem": str(error), "weights_fetchable": hub}


def _path() -> str:
    """Lets the process import what this one does, wherever that has it from."""
    own = str(Path(__file__).parents[3])
    return os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))


def main() -> None:
    """Prints what was found."""
    backbone = sys.stdin.read().strip()
    found = devices() | (weights(backbone) if backbone else {})
    print()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
