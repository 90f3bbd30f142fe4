"""RLRR: residual low-rank rescaling of the weights (arXiv 2403.19067, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.base import Adapter, Context, Edit, Parameter, Tensors, uniform
from adapters.fuse import spread
from adapters.hyperparameters import hyperparameter
from adapters.per_feature import SCALED, plain_outputs, scaled, start_scaled
from adapters.sites import PARTS, Linear, Sites


@dataclass(frozen=True)
class RLRR(Adapter):
    """W′ = W ⊙ (1 + row ⊗ col), b′ = b + Δb on q, k, v, o, fc1, fc2, each with its own.

    row (out) and col (in) are along the rows and columns of W as torch stores it, (out, in). SSF
    (y → γ ⊙ y + β) on norm1, norm2, patch embedding and final norm. On Swin also: SSF on the patch
    embedding's and every patch merging's norm, rescaling of its reduction. Where a layer has no
    bias there is no Δb. `sites` and `layers` choose norms as in SSF.
    Start: `init="theirs"` col uniform ±√(6/in), row uniform ±√6, γ ~ N(1, 0.02), β ~ N(0, 0.02),
    so that ΔW ≠ 0; `"zero"` row = 0, γ = 1, β = 0, no change. Δb = 0.
    Evaluated as base(x) + ((x ⊙ col) Wᵀ) ⊙ row + Δb: no ΔW is formed. Count: 4·3D for q,k,v,o,
    9D + 6D for fc1 and fc2, 4D for the norms of every layer, + 4D: 31·L·D + 4·D;
    ViT-B/16: 288,768. Weight decay spares Δb, the norms' γ and β and the head's bias, as in the
    authors' code, where it acts on the patch embedding's.
    """

    name: ClassVar[str] = "rlrr"
    decays_head_bias: ClassVar[bool] = False
    init: str = hyperparameter("theirs", among=("theirs", "zero"), stacks=True)
    sites: tuple[str, ...] = hyperparameter(PARTS)
    layers: tuple[int, ...] | None = hyperparameter(None)

    def start(self, sites: Sites, generator: torch.Generator) -> dict[str, Parameter]:
        """`blocks.<i>.<part>.row`, `.col`, `.bias` (reductions: their path); γ, β as SSF's."""
        tensors: Tensors = {}
        for site in _rescaled(sites):
            for part in site.chosen:
                prefix = site.tensor_name(part)
                bound = 0.0 if self.init == "zero" else sqrt(6)
                tensors[f"{prefix}.row"] = uniform((site.out,), bound, generator)
                tensors[f"{prefix}.col"] = uniform((site.inputs,), sqrt(6 / site.inputs), generator)
                if f"{site.path}.bias" in sites.weights:
                    tensors[f"{prefix}.bias"] = torch.zeros(site.out)
        tensors |= start_scaled(plain_outputs(sites), self.init, generator)
        spared = (".bias", *(f"{norm.path}.{kind}" for norm in sites.norms for kind in SCALED))
        return {n: Parameter(t, decay=not n.endswith(spared)) for n, t in tensors.items()}

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        linears = tuple(site.path for site in _rescaled(sites))
        return linears + tuple(output.path for output in plain_outputs(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """Linear layers: y → y + ((x ⊙ col) Wᵀ) ⊙ row + Δb; norms and patches: y → γ ⊙ y + β."""
        edits = {site.path: _rescale(site, tensors, context) for site in _rescaled(sites)}
        for output in plain_outputs(sites):
            edits[output.path] = scaled(output, tensors, context)
        return edits


def _rescaled(sites: Sites) -> tuple[Linear, ...]:
    return (*sites.linears, *sites.reductions)


def _rescale(site: Linear, tensors: Tensors, context: Context) -> Edit:
    def part_update(x: Tensor, weight: Tensor, part: str) -> Tensor:
        """x (K, N, in), weight (out, in) → (K, N, out)."""
        prefix = site.tensor_name(part)
        row, col = (tensors[f"{prefix}.{kind}"].unsqueeze(1) for kind in ("row", "col"))
        y = F.linear(x * col, weight) * row
        bias = tensors.get(f"{prefix}.bias")
        return y if bias is None else y + bias.unsqueeze(1)

    def edit(x: Tensor, base: nn.Module, *_: Any, **__: Any) -> Tensor:
        y: Tensor = base(x)
        split = context.split(x)
        rows = base.get_parameter("weight").chunk(len(site.parts))
        weights = dict(zip(site.parts, rows, strict=True))
        updates = {part: part_update(split, weights[part], part) for part in site.chosen}
        return y + spread(site, updates).view(y.shape)

    return edit
