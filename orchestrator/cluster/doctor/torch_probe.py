"""The probes that need torch: GPUs and weights, in a process of its own that releases the devices.

`python -m orchestrator.cluster.doctor.torch_probe` reads the backbone's name (or nothing) from
its input and prints one line of JSON, the last of its output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from typing import Any

from orchestrator.errors import OrchestrateError
from orchestrator.provenance import import_variables

_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
"""The doctor downloads nothing."""


def probe_with_torch(backbone: str, seconds: float) -> dict[str, Any]:
    """Fields of `ProbeResult`; `RuntimeError` if the process fails or exceeds `seconds`."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=backbone,
            env={**os.environ, **_ENVIRONMENT, **import_variables()},
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
    """The GPUs that torch can use, or its error."""
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
    """The fingerprint of a backbone's weights on this machine, or why there is none."""
    from orchestrator.backbones import fingerprint
    from orchestrator.backbones.names import MINI

    try:
        return {"weights": fingerprint(backbone)}
    except (OrchestrateError, OSError) as error:
        hub = "@" not in backbone and backbone != MINI
        return {"weights_problem": str(error), "weights_fetchable": hub}


def main() -> None:
    """Print the report as JSON."""
    backbone = sys.stdin.read().strip()
    found = devices() | (weights(backbone) if backbone else {})
    print()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
