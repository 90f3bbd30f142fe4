"""LoRA: low-rank updates of linear layers (Hu et al. 2022, arXiv 2106.09685, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch

from adapters.base import Adapter, Context, Tensors, uniform
from adapters.fuse import Update, low_rank_parts
from adapters.hyperparameters import hyperparameter
from adapters.sites import Linear, Sites


@dataclass(frozen=True)
class LoRA(Adapter):
    """ΔW = s·A B with A (in, r), B (r, out) for every chosen part of every chosen block.

    s = alpha / rank, alpha = rank when None. A starts uniform ±1/√in, B at 0. `dropout` acts on
    the layer's input, as in the paper's code. Count: Σ over parts of r·(in + out); r=8 on q,v of
    ViT-B/16: 294,912.
    """

    name: ClassVar[str] = "lora"
    rank: int = hyperparameter(8, low=1, stacks=True)
    alpha: float | None = hyperparameter(None, stacks=True)
    dropout: float = hyperparameter(0.0, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(("q", "v"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    @property
    def scale(self) -> float:
        """s = alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.<part>.A` and `.B` of every chosen part."""
        tensors: Tensors = {}
        for site in sites.linears:
            for part in site.chosen:
                name, bound = site.tensor_name(part), 1 / sqrt(site.inputs)
                tensors[f"{name}.A"] = uniform((site.inputs, self.rank), bound, generator)
                tensors[f"{name}.B"] = torch.zeros(self.rank, site.out)
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        """x → s·(x A) B per part."""
        scale = context.vector("scale")

        def layer(site: Linear) -> Update:
            names = {part: site.tensor_name(part) for part in site.chosen}
            factors = {
                part: (tensors[f"{name}.A"], tensors[f"{name}.B"] * scale)
                for part, name in names.items()
            }
            return context.drop_input(low_rank_parts(site, factors))

        return {site.path: layer(site) for site in sites.linears}
