"""How fast a device can multiply matrices: what a pool's work is measured against."""

from __future__ import annotations

import time

import torch

_SIDES = {"cuda": (4096, 8192), "cpu": (512, 1024)}
_SECONDS = 0.05
"""Each size is repeated for so long, at least three times."""


def rate(device: torch.device) -> float:
    """The best rate of large square products in operations per second, measured now.

    In bf16 on a GPU that has it, else in fp32: as the frozen weights are there.
    """
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported(False) else torch.float32
    return max(_measured(side, device, dtype) for side in _SIDES["cuda" if cuda else "cpu"])


def _measured(side: int, device: torch.device, dtype: torch.dtype) -> float:
    factor = torch.ones(side, side, device=device, dtype=dtype)
    product = torch.empty_like(factor)
    best, began = 0.0, time.perf_counter()
    done = 0
    while done < 3 or time.perf_counter() - began < _SECONDS:
        _wait(device)
        start = time.perf_counter()
        torch.matmul(factor, factor, out=product)
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
        done += 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
