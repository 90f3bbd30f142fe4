"""How low-rank parts become one product with the frozen layer, so that no tensor is passed twice.

    y = x Wᵀ + b + (x U) M

Written as three expressions, autograd would keep the update, add it to the layer's output, and add
two gradients of the input, each time going through all tokens once more. Here the last product of
either direction writes into the first one's result.

Shapes: K trials, N tokens; x (K, N, in), W (out, in), b (out,), U (K, in, r), M (K, r, out). A
(fused) layer puts out several parts side by side: qkv three of them, of which some are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import float8
from adapters.sites import Linear

Update = Callable[[Tensor], Tensor]
"""x (K, N, in) → what is added to the layer's output (K, N, out of all its parts)."""


@dataclass(frozen=True)
class LowRank:
    """U (K, in, r) and M (K, r, out) of an update x → (x U) M."""

    inner: Tensor
    outer: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The update of x (K, N, in) alone."""
        return (x @ self.inner) @ self.outer


def updated(x: Tensor, layer: nn.Linear, update: LowRank) -> Tensor:
    """The layer's output with the update (K, N, out), for x (K, N, in)."""
    if torch.is_autocast_enabled(x.device.type):  # each product then has a precision of its own
        plain: Tensor = layer(x) + update(x)
        return plain
    quantised = layer.frozen if isinstance(layer, float8.Float8Linear) else ()
    factors = (update.inner, update.outer)
    y: Tensor = _Updated.apply(x, layer.weight, layer.bias, *factors, *quantised)
    return y


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        inner: Tensor,
        outer: Tensor,
        *quantised: Tensor,
    ) -> Tensor:
        h = thin(x, inner)
        ctx.save_for_backward(x, weight, inner, outer, h)
        if quantised:
            weight8, scale = quantised
            y = float8.product(x, weight8, scale, bias)
        else:
            y = F.linear(x, weight, bias)
        return y.baddbmm_(h, outer)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inner, outer, h = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        dh = thin(dy, outer.mT)
        dx = (dy @ weight).baddbmm_(dh, inner.mT) if wants_x else None
        dweight = dy.flatten(0, 1).mT @ x.flatten(0, 1) if wants_weight else None
        dbias = dy.sum((0, 1)) if wants_bias else None
        none = (None,) * (len(ctx.needs_input_grad) - 5)
        return dx, dweight, dbias, torch.bmm(dh.mT, x).mT, torch.bmm(h.mT, dy), *none


def thin(x: Tensor, factor: Tensor) -> Tensor:
    """x (K, N, in) times a factor (K, in, r) of few columns.

    Its transpose is what is computed: to a CPU's kernels a matrix of few rows is a better left side
    than one of few columns is a right side (four times as fast for r = 8).
    """
    return torch.bmm(factor.mT, x.mT).mT


def spread(site: Linear, outputs: Mapping[str, Tensor]) -> Tensor:
    """Outputs (K, N, out) by part → (K, N, all parts · out), zeros for parts not chosen.

    Matrices (K, r, out) that make outputs of them likewise.
    """
    if len(site.parts) == 1:
        return outputs[site.parts[0]]
    some = next(iter(outputs.values()))
    zeros = some.new_zeros(()).expand_as(some)
    return torch.cat([outputs.get(part, zeros) for part in site.parts], dim=-1)


def low_rank_parts(site: Linear, factors: Mapping[str, tuple[Tensor, Tensor]]) -> LowRank:
    """Part → (A (K, in, r), B (K, r, out)) as one: [A_q A_v] and B_q, B_v block by block."""
    inner = torch.cat([a for a, _ in factors.values()], dim=-1)
    outer = [spread(site, {part: b}) for part, (_, b) in factors.items()]
    return LowRank(inner, torch.cat(outer, dim=-2))


@dataclass(frozen=True)
class SharedFactors:
    """U (K, D, r1), Σ (K, n, r1, r2) and V (K, r2, columns) that the slices U Σ_i V share.

    `slices` is (block, part) → i; `begins` is part → its first column of V (0 where it has none).
    fc2's slice is transposed: its update is Vᵀ Σ_iᵀ Uᵀ.
    """

    u: Tensor
    core: Tensor
    v: Tensor
    slices: Mapping[tuple[int, str], int]
    begins: Mapping[str, int]

    def updates(self, sites: Sequence[Linear]) -> dict[str, LowRank]:
        """Path → update of each layer.

        Σ_i V (for fc2 Σ_iᵀ Uᵀ) comes first: thin matrices, for all layers in one product, after
        which the tokens pass two products instead of three.
        """
        outer: dict[int, Tensor] = {}
        cores = self.core.unbind(1)
        for transposed, factor in ((False, self.v), (True, self.u.mT)):
            mine = [site for site in sites if _is_transposed(site) == transposed]
            picked = sorted({index for site in mine for index in self._indices(site)})
            if picked:
                stacked = torch.cat([cores[i].mT if transposed else cores[i] for i in picked], 1)
                outer |= zip(picked, (stacked @ factor).chunk(len(picked), dim=1), strict=True)
        return {site.path: self._layer(site, outer) for site in sites}

    def _layer(self, site: Linear, outer: Mapping[int, Tensor]) -> LowRank:
        indices = self._indices(site)
        if _is_transposed(site):
            return LowRank(self.v.mT, outer[indices[0]])
        # One Σ per part and all of V for each (EFFT2), or one Σ and V's columns of all (EFFT1).
        begin, count = self.begins.get(site.chosen[0], 0), len(site.chosen)
        columns = slice(begin, begin + site.out * count // len(indices))
        own = torch.cat([outer[index][..., columns] for index in indices], dim=-1)
        if site.chosen != site.parts:  # otherwise x U is shared by q, k and v as it is
            own = spread(site, dict(zip(site.chosen, own.chunk(count, dim=-1), strict=True)))
        return LowRank(self.u, own)

    def _indices(self, site: Linear) -> list[int]:
        """The slices of a layer, in its parts' order."""
        return list(dict.fromkeys(self.slices[site.block, part] for part in site.chosen))


def _is_transposed(site: Linear) -> bool:
    return site.parts == ("fc2",)
