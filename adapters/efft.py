"""EFFT: updates that share factors across layers, in one or two groups (arXiv 2311.06749, sec. 3).

A group's kinds of matrices, of every layer, are the slices of one tensor: ΔW_i = s·U Σ_i V.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Tensors, uniform
from adapters.errors import UnsupportedBackbone
from adapters.fuse import SharedFactors, Update
from adapters.hyperparameters import hyperparameter
from adapters.sites import FFN, GROUPS, MHSA, Linear, Sites


class SliceGroup(NamedTuple):
    """Updates that share U and V: V has `columns`, those of a part begin at `begins` (else at 0);
    `slices` is (block, part) → index of its Σ, in forward order.
    """

    name: str
    columns: int
    begins: dict[str, int]
    slices: dict[tuple[int, str], int]


@dataclass(frozen=True)
class EFFT(Adapter):
    """What the two methods share: x → s·((x U) Σ_i) V, for fc2, whose slice is transposed,
    x → s·((x Vᵀ) Σ_iᵀ) Uᵀ; ΔW is never formed.

    The factor that `init` names starts at 0, the other one Xavier-uniform; Σ (n,r1,r2) uniform
    ±√(6/(n(r1+r2))): Xavier over the whole core tensor. `dropout` drops elements of U, Σ and V,
    drawn anew for every attention module, every fc1 and every fc2, as in the authors' code.
    Swin: such groups in every stage, ranks times the stage's width ratio.
    """

    rank: int = hyperparameter(16, low=1, stacks=True)
    scale: float = hyperparameter(1.0, low=0, stacks=True)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """Each group's `U`, `core`, `V`; on Swin per stage, `stages.<i>.` before the names."""
        tensors: Tensors = {}
        for prefix, stage, own in sites.by_stage():
            for group, ranks, zero in zip(self.groups(own), *self.starts(), strict=True):
                if group.slices:
                    r1, r2 = (rank * stage.ratio for rank in ranks)
                    count, width = max(group.slices.values()) + 1, stage.width
                    u = uniform((width, r1), sqrt(6 / (width + r1)), generator)
                    core = uniform((count, r1, r2), sqrt(6 / (count * (r1 + r2))), generator)
                    v = uniform((r2, group.columns), sqrt(6 / (r2 + group.columns)), generator)
                    (u if zero == "u" else v).zero_()
                    tensors |= zip(_names(prefix, group), (u, core, v), strict=True)
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        scale = context.vector("scale").unsqueeze(-1)
        updates: dict[str, Update] = {}
        for prefix, _, own in sites.by_stage():
            for group in self.groups(own):
                for linears, (u, core, v), slices in _modules(prefix, group, own, tensors, context):
                    shared = SharedFactors(u, core * scale, v, slices, group.begins)
                    updates |= shared.updates(linears)
        return updates

    @abstractmethod
    def groups(self, sites: Sites) -> list[SliceGroup]:
        """The groups of one stage; one without slices is not there."""

    @abstractmethod
    def starts(self) -> tuple[list[tuple[int, int]], str]:
        """Per group: (r1, r2), and the letter of the factor that starts at 0."""


@dataclass(frozen=True)
class EFFT1(EFFT):
    """One group: [q k v o], fc1 and fc2ᵀ, each (D,4D), of every layer. The rest is `EFFT`'s.

    U (D,r1), Σ (3L,r1,r2), V (r2,4D), r1 = `rank`, r2 = `rank2` or `rank`. `init`: `u` or `v`.
    The chosen ones of q k v o stand side by side from V's first column on; without fc1 and fc2, V
    has just their columns. Count: Dr1 + 4Dr2 + 3L·r1·r2; r=16 on ViT-B/16: 70,656, r=32: 159,744.
    """

    name: ClassVar[str] = "efft1"
    init: str = hyperparameter("v", among=("u", "v"), stacks=True)
    rank2: int | None = hyperparameter(None, low=1, stacks=True)

    def select(self, sites: Sites) -> Sites:
        """The chosen parts of the chosen blocks; [q k v o] must be as wide as fc1."""
        chosen = sites.select(self.sites, self.layers)
        width, hidden = sites.every_block[0].width, _hidden(sites)
        if hidden != 4 * width and _hidden(chosen) and _chosen(chosen, MHSA):
            raise UnsupportedBackbone(
                f"efft1 stacks [q k v o] ({width}, {4 * width}) and fc1 ({width}, {hidden}), whose "
                "widths must be equal; take efft2, sites=('mhsa',) or sites=('ffn',)."
            )
        return chosen

    def groups(self, sites: Sites) -> list[SliceGroup]:
        """One; q, k, v and o of a block have the same Σ."""
        parts, width = _chosen(sites, MHSA), sites.blocks[0].width
        begins = {part: index * width for index, part in enumerate(parts)}
        kinds = {(block, part): part if part in FFN else "qkvo" for block, part in sites.slices()}
        order = list(dict.fromkeys((block, kind) for (block, _), kind in kinds.items()))
        slices = {key: order.index((key[0], kind)) for key, kind in kinds.items()}
        return [SliceGroup("", _hidden(sites) or len(parts) * width, begins, slices)]

    def starts(self) -> tuple[list[tuple[int, int]], str]:
        return [(self.rank, self.rank2 or self.rank)], self.init


@dataclass(frozen=True)
class EFFT2(EFFT):
    """Two groups: all of MHSA and all of FFN. The rest is `EFFT`'s.

    MHSA: 4L slices q,k,v,o of D×D: U (D,r), Σ (4L,r,r), V (r,D). FFN: 2L slices D×4D, fc2
    transposed: U (D,f), Σ (2L,f,g), V (g,4D), f = `ffn_rank` or `rank`, g = `ffn_rank2` or f (2f in
    the authors' code for Swin). `cores="shared"` keeps one Σ per matrix kind for all layers (the
    authors' code): 4 and 2 slices. `init`: one letter per group (MHSA, FFN).
    Count: 2Dr + 4Lr² + Df + 4Dg + 2Lfg; on ViT-B/16 r=16: 104,448, r=32: 245,760, shared r=16:
    87,552.
    """

    name: ClassVar[str] = "efft2"
    init: str = hyperparameter("vv", among=("vv", "vu", "uv", "uu"), stacks=True)
    ffn_rank: int | None = hyperparameter(None, low=1, stacks=True)
    ffn_rank2: int | None = hyperparameter(None, low=1, stacks=True)
    cores: str = hyperparameter("per_layer", among=("per_layer", "shared"))

    def groups(self, sites: Sites) -> list[SliceGroup]:
        """`mhsa.` and `ffn.`."""
        columns = (sites.blocks[0].width, _hidden(sites))
        return [
            SliceGroup(f"{name}.", wide, {}, self._slices(sites, members))
            for (name, members), wide in zip(GROUPS.items(), columns, strict=True)
        ]

    def starts(self) -> tuple[list[tuple[int, int]], str]:
        ffn = self.ffn_rank or self.rank
        return [(self.rank, self.rank), (ffn, self.ffn_rank2 or ffn)], self.init

    def _slices(self, sites: Sites, members: tuple[str, ...]) -> dict[tuple[int, str], int]:
        own = [key for key in sites.slices() if key[1] in members]
        kinds = _chosen(sites, members)
        shared = self.cores == "shared"
        return {key: kinds.index(key[1]) if shared else index for index, key in enumerate(own)}


def _modules(
    prefix: str, group: SliceGroup, sites: Sites, tensors: Tensors, context: Context
) -> Iterator[tuple[list[Linear], list[Tensor], dict[tuple[int, str], int]]]:
    """The layers that share a draw of dropout, their factors, and their slices' places in Σ.

    An attention module's layers share one, fc1 and fc2 have their own. Without dropout all layers
    are one module, so that Σ_i V is one product for all of them.
    """
    modules: dict[tuple[int, str] | None, list[Linear]] = {}
    for site in sites.linears:
        if (site.block, site.chosen[0]) in group.slices:
            part = site.parts[0] if site.parts[0] in FFN else ""
            modules.setdefault((site.block, part) if context.drops else None, []).append(site)
    if not modules:
        return
    used = [
        sorted({group.slices[site.block, part] for site in linears for part in site.chosen})
        for linears in modules.values()
    ]
    names = _names(prefix, group)
    u, core, v = (tensors[name] for name in names)
    cores = core.unbind(1)
    picked = torch.stack([cores[index] for own in used for index in own], 1)
    stacked = (
        u.unsqueeze(1).expand(-1, len(used), -1, -1),
        picked.view(len(picked), len(used), -1, *picked.shape[2:]),
        v.unsqueeze(1).expand(-1, len(used), -1, -1),
    )
    factors = (context.drop_factor(*pair).unbind(1) for pair in zip(names, stacked, strict=True))
    for linears, own, *parts in zip(modules.values(), used, *factors, strict=True):
        slices = {key: own.index(index) for key, index in group.slices.items() if index in own}
        yield linears, parts, slices


def _names(prefix: str, group: SliceGroup) -> list[str]:
    return [f"{prefix}{group.name}{name}" for name in ("U", "core", "V")]


def _chosen(sites: Sites, members: tuple[str, ...]) -> list[str]:
    """Which of `members` are selected."""
    found = {part for _, part in sites.slices()}
    return [part for part in members if part in found]


def _hidden(sites: Sites) -> int:
    """The FFN's hidden width: what fc1 puts out and fc2 takes in; 0 if neither is selected."""
    for site in sites.linears:
        if site.parts[0] in FFN:
            return site.out if site.parts == ("fc1",) else site.inputs
    return 0
