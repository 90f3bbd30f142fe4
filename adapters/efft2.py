"""EFFT, two groups: updates that share factors across layers (arXiv 2311.06749, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Tensors, Update, spread, uniform
from adapters.knobs import knob
from adapters.sites import FFN, MHSA, Linear, Sites

_GROUPS: dict[str, tuple[str, ...]] = {"mhsa": MHSA, "ffn": FFN}


@dataclass(frozen=True)
class EFFT2(Adapter):
    """ΔW_i = s·U Σ_i V with one (U, V) for all MHSA slices and one for all FFN slices.

    MHSA: 4L slices q,k,v,o of D×D: U (D,r), Σ (4L,r,r), V (r,D). FFN: 2L slices D×4D, fc2
    transposed: U (D,f), Σ (2L,f,f), V (f,4D), f = `ffn_rank` or `rank`. `cores="shared"` keeps one
    Σ per matrix kind for all layers (the authors' code): 4 and 2 slices.

    `init`: one letter per group (MHSA, FFN), the factor that starts at 0 (`u` or `v`); the other is
    Xavier-uniform and Σ uniform ±√(6/(n·2r)), n its slices (Xavier over the whole core tensor).
    `dropout` drops elements of U, Σ and V, drawn once per step. ΔW is never formed: the update is
    ((x U) Σ_i) V. Count: 2Dr + 4Lr² + 5Df + 2Lf²; on ViT-B/16 r=16: 104,448, r=32: 245,760.
    """

    name: ClassVar[str] = "efft2"
    rank: int = knob(16, low=1, stacks=True)
    scale: float = knob(1.0, low=0, stacks=True)
    init: str = knob("vv", among=("vv", "vu", "uv", "uu"), stacks=True)
    dropout: float = knob(0.1, low=0, below=1, stacks=True)
    ffn_rank: int | None = knob(None, low=1, stacks=True)
    cores: str = knob("per_layer", among=("per_layer", "shared"))
    sites: tuple[str, ...] = knob(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = knob(None)

    def select(self, sites: Sites) -> Sites:
        """The chosen parts of the chosen blocks."""
        return sites.select(self.sites, self.layers)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`mhsa.U`, `.core`, `.V` and `ffn.U`, `.core`, `.V`, where the group has a slice."""
        tensors: Tensors = {}
        for group, zero in zip(_GROUPS, self.init, strict=True):
            slices = self._slices(sites, group)
            if slices:
                rank = self.rank if group == "mhsa" else self.ffn_rank or self.rank
                wide = _hidden(sites) if group == "ffn" else sites.width
                count = max(slices.values()) + 1
                core_bound = sqrt(6 / (count * 2 * rank))
                u = uniform((sites.width, rank), sqrt(6 / (sites.width + rank)), generator)
                core = uniform((count, rank, rank), core_bound, generator)
                v = uniform((rank, wide), sqrt(6 / (rank + wide)), generator)
                (u if zero == "u" else v).zero_()
                tensors |= {f"{group}.U": u, f"{group}.core": core, f"{group}.V": v}
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        """x → s·((x U) Σ_i) V; for fc2, whose slice is transposed, x → s·((x Vᵀ) Σ_iᵀ) Uᵀ."""
        scale = context.vector("scale")
        updates: dict[str, Update] = {}
        for group in _GROUPS:
            slices = self._slices(sites, group)
            if not slices:
                continue
            u, core, v = (
                context.drop_factor(f"{group}.{name}", tensors[f"{group}.{name}"])
                for name in ("U", "core", "V")
            )
            cores = (core * scale.unsqueeze(-1)).unbind(1)
            by_slice = {key: cores[index] for key, index in slices.items()}
            for site in sites.linears:
                if set(site.parts) <= set(_GROUPS[group]):
                    updates[site.path] = _layer(site, u, by_slice, v)
        return updates

    def _slices(self, sites: Sites, group: str) -> dict[tuple[int, str], int]:
        """(block, part) → index of its slice in the group's core, in forward order."""
        chosen = [key for key in sites.slices() if key[1] in _GROUPS[group]]
        if self.cores == "per_layer":
            return {key: index for index, key in enumerate(chosen)}
        kinds = [part for part in _GROUPS[group] if any(part == key[1] for key in chosen)]
        return {key: kinds.index(key[1]) for key in chosen}


def _layer(site: Linear, u: Tensor, cores: Mapping[tuple[int, str], Tensor], v: Tensor) -> Update:
    chosen = [cores[site.block, part] for part in site.chosen]
    if site.parts == ("fc2",):
        return lambda x: ((x @ v.mT) @ chosen[0].mT) @ u.mT
    core = torch.cat(chosen, dim=-1)  # (K, r, parts·r): x U is shared by q, k and v
    rank = v.shape[-2]

    def update(x: Tensor) -> Tensor:
        h = (x @ u) @ core
        k, n, _ = h.shape
        z = h.view(k, n * len(chosen), rank) @ v
        if site.chosen == site.parts:
            return z.view(k, n, -1)
        by_part = z.view(k, n, len(chosen), -1).unbind(2)
        return spread(site, dict(zip(site.chosen, by_part, strict=True)))

    return update


def _hidden(sites: Sites) -> int:
    """The FFN's hidden width: what fc1 puts out and fc2 takes in."""
    site = next(s for s in sites.linears if s.parts[0] in FFN)
    return site.out if site.parts == ("fc1",) else site.inputs
