"""ARC: adapters re-composed from projections that layers share (arXiv 2310.06234, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Edit, Tensors, uniform
from adapters.hyperparameters import hyperparameter
from adapters.sites import Norm, Sites


@dataclass(frozen=True)
class ARC(Adapter):
    """z → z + (z (W ⊙ c_l)) Wᵀ + b_l on the outputs z of norm1 (before qkv) and norm2 (before fc1).

    W (D, D′), D′ = `rank`, is shared by all layers, one for MHSA and one for FFN (on Swin one pair
    per stage); c_l (D′) and b_l (D) are each layer's own. `dropout` acts on z (W ⊙ c_l).
    Start: c = 0, b = 0, so nothing changes; W Xavier-uniform ±√(6/(D+D′)).
    `sites` takes halves of blocks only: what a norm puts out is read by q, k and v alike.
    Count: 2·D·D′ + 2·L·(D′ + D); D′=50 on ViT-B/16: 96,432. Merges into qkv and fc1.
    """

    name: ClassVar[str] = "arc"
    rank: int = hyperparameter(50, low=1, stacks=True)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(
        ("mhsa", "ffn"), among=(("mhsa", "ffn"), ("ffn", "mhsa"), ("mhsa",), ("ffn",))
    )
    layers: tuple[int, ...] | None = hyperparameter(None)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`stages.<s>.<half>.W`, one stage in a ViT; `blocks.<i>.<half>.c` and `.b`."""
        tensors: Tensors = {}
        for shared, norm in _shared(sites):
            if shared not in tensors:
                bound = sqrt(6 / (norm.width + self.rank))
                tensors[shared] = uniform((norm.width, self.rank), bound, generator)
            tensors[f"blocks.{norm.block}.{norm.group}.c"] = torch.zeros(self.rank)
            tensors[f"blocks.{norm.block}.{norm.group}.b"] = torch.zeros(norm.width)
        return tensors

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return tuple(norm.path for _, norm in _shared(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        def recomposed(shared: str, c: Tensor, b: Tensor) -> Edit:
            w = tensors[shared]
            down, shift = w * c.unsqueeze(1), b.unsqueeze(1)
            ranks = context.own_widths(shared)

            def change(z: Tensor) -> Tensor:
                return z + context.drop_activation(z @ down, ranks) @ w.mT + shift

            return context.mapped(change)

        return {
            norm.path: recomposed(
                shared, *(tensors[f"blocks.{norm.block}.{norm.group}.{n}"] for n in "cb")
            )
            for shared, norm in _shared(sites)
        }


def _shared(sites: Sites) -> list[tuple[str, Norm]]:
    """Every selected norm of a block and the name of the projection that it shares."""
    return [
        (f"stages.{stage.index}.{norm.group}.W", norm)
        for _, stage, own in sites.by_stage()
        for norm in own.norms
    ]
