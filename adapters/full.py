"""Full and partial fine-tuning: the backbone's own weights train (VPT, arXiv 2203.12119, §4).

There is one copy of them, so a stack holds one trial. The trained tensors start as fp32 copies and
stand in for the frozen ones in every forward pass; a bf16 backbone thus keeps fp32 masters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from adapters.base import Adapter, Tensors
from adapters.errors import AdapterError
from adapters.hyperparameters import hyperparameter
from adapters.sites import FFN, MHSA, Sites

_HALVES = ((MHSA, ("attn.", "norm1.", "ls1.")), (FFN, ("mlp.", "norm2.", "ls2.")))


@dataclass(frozen=True)
class _OwnWeights(Adapter):
    """What both have in common: tensors that carry the names of the weights they replace."""

    max_trials: ClassVar[int | None] = 1

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        """No module is edited: their parameters are replaced."""
        return ()

    def weights(self, tensors: Tensors) -> Tensors:
        return tensors


@dataclass(frozen=True)
class Full(_OwnWeights):
    """Every weight W of the backbone trains, from its pre-trained value.

    `layers` and `sites` leave the rest frozen: of every chosen block, each whole half (MHSA or FFN)
    trains with its norm, layer scale and position biases; where only some parts of a half are
    chosen, their linear layers train alone. q, k and v are one weight in timm: all three or none.
    Tensors have the backbone's own names. Count: all weights; ViT-B/16: 85,798,656.
    """

    name: ClassVar[str] = "full"
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        return _whole_layers(sites.select(self.sites, self.layers), self)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """Copies of the chosen weights: of every one if nothing was deselected."""
        return _copies(sites, _chosen(sites) if sites.patch is None else ("",))


@dataclass(frozen=True)
class Partial(_OwnWeights):
    """The weights of the last `blocks` blocks and of the final norm train, from their values.

    `layers` names the blocks instead of the last ones; `sites` chooses in them as in `full`.
    Count on ViT-B/16: 7,087,872 per block + 1,536 of the final norm.
    """

    name: ClassVar[str] = "partial"
    blocks: int = hyperparameter(1, low=1)
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        if self.blocks > sites.depth:
            raise AdapterError(
                f"Partial.blocks is {self.blocks}; this backbone has {sites.depth} blocks."
            )
        last = range(sites.depth - self.blocks, sites.depth)
        layers = tuple(last) if self.layers is None else self.layers
        return _whole_layers(sites.select(self.sites, layers), self)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """Copies of the weights of the chosen blocks and of the final norm."""
        return _copies(sites, (*_chosen(sites), "norm.", "fc_norm."))


def _copies(sites: Sites, prefixes: tuple[str, ...]) -> Tensors:
    return {
        name: weight.detach().to(torch.float32, copy=True)
        for name, weight in sites.weights.items()
        if name.startswith(prefixes)
    }


def _chosen(sites: Sites) -> tuple[str, ...]:
    """What the names of the chosen blocks' weights begin with."""
    prefixes = [f"{site.path}." for site in sites.linears]
    for block in sites.blocks:
        parts = {part for index, part in sites.slices() if index == block.index}
        for half, names in _HALVES:
            if parts.issuperset(half):
                prefixes += [f"{block.path}.{name}" for name in names]
    return tuple(prefixes)


def _whole_layers(sites: Sites, adapter: Full | Partial) -> Sites:
    """The sites, if no fused layer is chosen in part: `AdapterError` otherwise."""
    for site in sites.linears:
        if site.chosen != site.parts:
            raise AdapterError(
                f"{adapter.name} trains whole weights, and {', '.join(site.parts)} are one "
                f"({site.path}); sites={adapter.sites} has only {', '.join(site.chosen)}: "
                "name all of them, or none."
            )
    return sites
