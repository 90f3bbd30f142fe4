"""LoRA: low-rank updates of linear layers (Hu et al. 2022, arXiv 2106.09685, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Tensors, Update, by_parts, uniform
from adapters.knobs import knob
from adapters.sites import Linear, Sites


@dataclass(frozen=True)
class LoRA(Adapter):
    """ΔW = s·A B with A (in, r), B (r, out) for every chosen part of every chosen block.

    s = alpha / rank, alpha = rank when None. A starts uniform ±1/√in, B at 0. `dropout` acts on
    the layer's input, as in the paper's code. Count: Σ over parts of r·(in + out); r=8 on q,v of
    ViT-B/16: 294,912.
    """

    name: ClassVar[str] = "lora"
    rank: int = knob(8, low=1, stacks=True)
    alpha: float | None = knob(None, stacks=True)
    dropout: float = knob(0.0, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = knob(("q", "v"))
    layers: tuple[int, ...] | None = knob(None)

    @property
    def scale(self) -> float:
        """s = alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def select(self, sites: Sites) -> Sites:
        """The chosen parts of the chosen blocks."""
        return sites.select(self.sites, self.layers)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.<part>.A` and `.B` of every chosen part."""
        tensors: Tensors = {}
        for site in sites.linears:
            for part in site.chosen:
                prefix = f"blocks.{site.block}.{part}"
                tensors[f"{prefix}.A"] = uniform(
                    (site.inputs, self.rank), 1 / sqrt(site.inputs), generator
                )
                tensors[f"{prefix}.B"] = torch.zeros(self.rank, site.out)
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        """x → s·(x A) B per part."""
        scale = context.vector("scale")

        def layer(site: Linear) -> Update:
            def part_update(part: str) -> Update:
                a, b = (tensors[f"blocks.{site.block}.{part}.{name}"] for name in "AB")
                return lambda x: (x @ a) @ (b * scale)

            parts = by_parts(site, {part: part_update(part) for part in site.chosen})

            def update(x: Tensor) -> Tensor:
                return parts(context.drop_activation(x))

            return update

        return {site.path: layer(site) for site in sites.linears}
