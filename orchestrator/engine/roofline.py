"""Device utilisation: the operations that a step needs, and the rate that a device reaches.

A product of (m, k) and (k, n) counts 2mkn. Training counts the forward pass and the gradients of
the activations: a frozen layer needs as many again, a product of two activations (inside attention)
twice as many. Adapters, norms, softmax and other elementwise operations are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.sites import Sites

_SIDES = {"cuda": (4096, 8192), "cpu": (512, 1024)}
_SECONDS = 0.05
"""Each matrix size is repeated for this time, at least three times."""


@dataclass(frozen=True)
class Flops:
    """Of one image: before the blocks, and per block in frozen layers and inside attention."""

    embedding: float
    layers: tuple[float, ...]
    attention: tuple[float, ...]

    def forward(self, cut: int | None) -> float:
        """Of a forward pass from block `cut` on; None: from the image on."""
        blocks = sum(self.layers[cut or 0 :]) + sum(self.attention[cut or 0 :])
        return blocks + (self.embedding if cut is None else 0.0)

    def training(self, cut: int | None, changed: int | None) -> float:
        """Of a forward pass from block `cut` and gradients down to block `changed`."""
        first = changed or 0
        gradients = sum(self.layers[first:]) + 2 * sum(self.attention[first:])
        return self.forward(cut) + gradients


def count_flops(model: nn.Module, image: Tensor, sites: Sites) -> Flops:
    """Count by running a model on one image; both may be on the device `meta`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    found = {name.partition(".")[2]: counts for name, counts in counter.get_flop_counts().items()}
    blocks = [found.get(block.path, {}) for block in sites.every_block]
    return Flops(
        embedding=float(sum(found.get("patch_embed", {}).values())),
        layers=tuple(float(sum(b.values())) - _attention(b) for b in blocks),
        attention=tuple(_attention(block) for block in blocks),
    )


def _attention(counts: Mapping[Any, int]) -> float:
    """Products of two activations, which are a block's batched products."""
    return float(counts.get(torch.ops.aten.bmm, 0))


def rate(device: torch.device) -> float:
    """The best rate of large square matrix products in operations per second, measured now.

    In bf16 on a GPU that has it, else in fp32: the dtype of the frozen weights there.
    """
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported(False) else torch.float32
    return max(_rate(side, device, dtype) for side in _SIDES["cuda" if cuda else "cpu"])


def _rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    factor = torch.ones(side, side, device=device, dtype=dtype)
    product = torch.empty_like(factor)
    best, began = 0.0, time.perf_counter()
    done = 0
    while done < 3 or time.perf_counter() - began < _SECONDS:
        synchronize(device)
        start = time.perf_counter()
        torch.matmul(factor, factor, out=product)
        synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
        done += 1
    return best


def synchronize(device: torch.device) -> None:
    """Wait for everything that a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
