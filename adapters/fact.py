"""FacT: all updates as slices of one factorised tensor (arXiv 2212.03145, section 3)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Tensors, uniform
from adapters.errors import UnsupportedBackbone
from adapters.fuse import Update, spread
from adapters.hyperparameters import hyperparameter
from adapters.sites import FFN, Linear, Sites


@dataclass(frozen=True)
class FacT(Adapter):
    """ΔW_i = s·U Σ_i V with U (D,r), V (r,D) shared by every slice i; how Σ (n,r,r) comes about
    distinguishes the two methods.

    Slices: q, k, v, o one each; fc1 four tiles side by side in its columns, fc2 four in its rows
    (hidden / D of them in general). So n = 12L, in forward order; what `sites` and `layers` leave
    out has no slice. `dropout` acts on the activation of size r after Σ: dropout((x U) Σ_i) V.
    U starts uniform ±1/√D, V at 0. Swin: one group per stage, `rank` times the stage's width ratio.
    """

    rank: int = hyperparameter(16, low=1, stacks=True)
    scale: float = hyperparameter(1.0, low=0, stacks=True)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        """The chosen parts of the chosen blocks; a hidden width must be whole tiles."""
        chosen = sites.select(self.sites, self.layers)
        for site in chosen.linears:
            width = sites.every_block[site.block].width
            if site.inputs % width or site.out % width:
                raise UnsupportedBackbone(
                    f"{self.name} cuts {site.path} ({site.inputs}, {site.out}) into tiles of "
                    f"{width}×{width}: the hidden width must be a multiple of {width}; "
                    "or leave fc1 and fc2 out with sites=('mhsa',)."
                )
        return chosen

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`U`, the tensors of Σ, `V`; on Swin one set per stage, `stages.<i>.U` and so on."""
        tensors: Tensors = {}
        for prefix, stage, own in sites.by_stage():
            rank, width = self.rank * stage.ratio, stage.width
            group = {"U": uniform((width, rank), 1 / sqrt(width), generator)}
            rows = [
                site.inputs // width for site in own.linears for _ in range(_count(site, width))
            ]
            group |= self.start_core(rows, rank, generator)
            group["V"] = torch.zeros(rank, width)
            tensors |= {prefix + name: tensor for name, tensor in group.items()}
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        scale = context.vector("scale").unsqueeze(-1)
        updates: dict[str, Update] = {}
        for prefix, stage, own in sites.by_stage():
            group = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            core = self.core(group) * scale  # (K, n, r, r)
            counts = [_count(site, stage.width) for site in own.linears]
            ranks = [shape[f"{prefix}U"][1] for shape in context.shapes]
            for site, slices in zip(own.linears, torch.split(core, counts, dim=1), strict=True):
                tiles = self.tiles_of(site, slices, ranks, context)
                updates[site.path] = _layer(site, group, tiles, context, f"{prefix}U")
        return updates

    @abstractmethod
    def start_core(self, rows: list[int], rank: int, generator: torch.Generator) -> Tensors:
        """The tensors from which slices Σ_i (rank, rank) are made, one for each of `rows`: how many
        tiles of its layer lie beneath each other (fc2: hidden / D, else 1).
        """

    @abstractmethod
    def core(self, group: Tensors) -> Tensor:
        """Every Σ_i of a group: (K, n, r, r)."""

    def tiles_of(self, site: Linear, slices: Tensor, ranks: list[int], context: Context) -> Tensor:
        """The Σ of a layer's parts or tiles, (K, m, r, r), from its own m slices.

        `ranks` are the trials' own, up to the padded r.
        """
        return slices


@dataclass(frozen=True)
class FactTT(FacT):
    """FacT as a tensor train: Σ (12L, r, r) itself is trained.

    It starts as the nn.Linear of the authors' code, uniform ±1/√r, fc2's slices ±1/√(4r): there its
    four tiles are one layer of 4r inputs. Count: 2Dr + 12Lr²; r=16 on ViT-B/16: 61,440. The rest is
    `FacT`'s.
    """

    name: ClassVar[str] = "fact_tt"

    def start_core(self, rows: list[int], rank: int, generator: torch.Generator) -> Tensors:
        inputs = torch.tensor(rows).view(-1, 1, 1) * rank
        return {"core": uniform((len(rows), rank, rank), 1.0, generator) / inputs.sqrt()}

    def core(self, group: Tensors) -> Tensor:
        return group["core"]


@dataclass(frozen=True)
class FactTK(FacT):
    """FacT in Tucker form: Σ_i = C ×₃ P_i = Σ_a P_ia C[:, :, a] with C (r,r,r), P (12L,r).

    Both start Xavier-uniform with torch's fans of these shapes (for C r·r in and out): C ±√3/r,
    P ±√(6/(12L+r)). Count: 2Dr + r³ + 12Lr; r=32 on ViT-B/16: 86,528. The rest is `FacT`'s.

    `tiles="published"` is the authors' code, to which their numbers belong: it reshapes the slices
    S_m (r, r) of fc1 or fc2, n of them, into (r, n·r) with m running fastest. So tile t of fc1 is
    Σ_t[a, b] = S_m[a, c] with n·c + m = t·r + b, of fc2 S_m[b, c] with n·c + m = t·r + a.
    """

    name: ClassVar[str] = "fact_tk"
    rank: int = hyperparameter(32, low=1, stacks=True)
    tiles: str = hyperparameter("formula", among=("formula", "published"))

    def start_core(self, rows: list[int], rank: int, generator: torch.Generator) -> Tensors:
        count, c = len(rows), uniform((rank, rank, rank), sqrt(3) / rank, generator)
        return {"C": c, "P": uniform((count, rank), sqrt(6 / (count + rank)), generator)}

    def core(self, group: Tensors) -> Tensor:
        return torch.einsum("kabc,knc->knab", group["C"], group["P"])

    def tiles_of(self, site: Linear, slices: Tensor, ranks: list[int], context: Context) -> Tensor:
        if self.tiles == "formula" or site.parts[0] not in FFN:
            return slices
        of_fc2, (count, most, _) = site.parts == ("fc2",), slices.shape[1:]
        places = context.kept(
            ("tiles", of_fc2, count, most, *ranks),
            lambda: torch.stack([_interleaved(count, rank, most, of_fc2) for rank in ranks]),
        )
        return slices.flatten(1).gather(1, places).view(slices.shape)


def _interleaved(count: int, rank: int, most: int, of_fc2: bool) -> Tensor:
    """Where each entry of the published tiles is in the slices (count, most, most), both flattened.

    Entries beyond the rank are at the last one of a slice, which is zero there.
    """
    t, a, b = torch.meshgrid(torch.arange(count), *[torch.arange(most)] * 2, indexing="ij")
    row, column = (b, a) if of_fc2 else (a, b)
    place = t * rank + column
    found = place % count * most**2 + row * most + place // count
    return torch.where((a < rank) & (b < rank), found, most**2 - 1).flatten()


def _count(site: Linear, width: int) -> int:
    """The number of D×D slices of a layer: its chosen parts, or the tiles of fc1 and fc2."""
    return len(site.chosen) * (site.inputs // width) * (site.out // width)


def _layer(site: Linear, group: Tensors, slices: Tensor, context: Context, name: str) -> Update:
    u, v = group["U"], group["V"]
    width, rank = u.shape[-2:]
    rows = site.inputs // width
    # x U is taken once per tile of x: shared by q, k and v, and by the tiles of fc1.
    core = slices.flatten(1, 2) if rows > 1 else slices.transpose(1, 2).flatten(2)
    ranks = context.own_widths(name)

    def update(x: Tensor) -> Tensor:
        k, n, _ = x.shape
        h = (x.reshape(k, n * rows, width) @ u).view(k, n, rows * rank) @ core
        h = context.drop_activation(h.view(k, n, -1, rank), ranks)
        z = h.view(k, -1, rank) @ v
        if site.chosen == site.parts:
            return z.view(k, n, -1)
        by_part = z.view(k, n, len(site.chosen), -1).unbind(2)
        return spread(site, dict(zip(site.chosen, by_part, strict=True)))

    return update
