"""Floating-point operations of the frozen backbone: what a step costs at the least.

A product of (m, k) and (k, n) counts 2mkn. Training counts the forward pass and the gradients of
the activations: a frozen layer needs as many again, a product of two activations (inside attention)
twice as many. What adapters add is not counted, nor are norms, softmax and the like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.sites import Sites


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


def count(shadow: nn.Module, image: Tensor, sites: Sites) -> Flops:
    """Counted by running a model on one image; both may be without data (on `meta`)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(image)
    found = {name.partition(".")[2]: counts for name, counts in counter.get_flop_counts().items()}
    blocks = [found.get(block.path, {}) for block in sites.every_block]
    return Flops(
        embedding=float(sum(found.get("patch_embed", {}).values())),
        layers=tuple(float(sum(b.values())) - _attention(b) for b in blocks),
        attention=tuple(_attention(block) for block in blocks),
    )


def _attention(counts: Mapping[Any, int]) -> float:
    """Products of two activations: what a block multiplies in batches."""
    return float(counts.get(torch.ops.aten.bmm, 0))
