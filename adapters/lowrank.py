"""A frozen linear layer and a low-rank update of it as one function: no tensor is passed twice.

    y = x Wᵀ + b + (x U) M

Written as three expressions, autograd would keep the update, add it to the layer's output, and add
two gradients of the input, each time going through all tokens once more. Here the last product of
either direction writes into the first one's result.

Shapes: K trials, N tokens; x (K, N, in), W (out, in), b (out,), U (K, in, r), M (K, r, out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    factors = (update.inner, update.outer)
    y: Tensor = _Updated.apply(x, layer.weight, layer.bias, *factors)
    return y


class _Updated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, inner: Tensor, outer: Tensor
    ) -> Tensor:
        h = _thin(x, inner)
        ctx.save_for_backward(x, weight, inner, outer, h)
        return F.linear(x, weight, bias).baddbmm_(h, outer)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inner, outer, h = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        dh = _thin(dy, outer.mT)
        dx = (dy @ weight).baddbmm_(dh, inner.mT) if wants_x else None
        dweight = dy.flatten(0, 1).mT @ x.flatten(0, 1) if wants_weight else None
        dbias = dy.sum((0, 1)) if wants_bias else None
        return dx, dweight, dbias, torch.bmm(dh.mT, x).mT, torch.bmm(h.mT, dy)


def _thin(x: Tensor, factor: Tensor) -> Tensor:
    """x (K, N, in) times a factor (K, in, r) of few columns.

    Its transpose is what is computed: to a CPU's kernels a matrix of few rows is a better left side
    than one of few columns is a right side (four times as fast for r = 8).
    """
    return torch.bmm(factor.mT, x.mT).mT
