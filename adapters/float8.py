"""Frozen linear layers whose products run in float8, for devices with float8 matrix units.

    y = (s_x ⊗ s_w) ∘ (x₈ w₈ᵀ) + b    x₈ = e4m3(x / s_x), w₈ = e4m3(w / s_w)

s_x has a scale for each row of the input (each token), so that a token's result depends on no
other; s_w has one for each row of the weight (each output), computed once. A scale maps a row's
largest magnitude to the largest number of e4m3, 448. Gradients with respect to the input are
products of the unquantised weight in its own dtype; the rounding is passed straight through.

Shapes: N rows; x (N, in), w (out, in), s_x (N, 1), s_w (1, out).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMAT = torch.float8_e4m3fn
_LARGEST = torch.finfo(FORMAT).max
_TINY = 1e-12
"""The least largest magnitude of a row: a row of zeros has a scale too."""


class Float8Linear(nn.Linear):
    """A frozen linear layer that multiplies in float8; `weight` and `bias` are the layer's own.

    Where an adapter replaces the weight itself, which is then not frozen, it multiplies as
    nn.Linear does. Move it to its dtype before it is made: `to(dtype)` would convert the quantised
    weight as well.
    """

    weight8: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear, weight: Tensor | None = None) -> None:
        """Share the parameters of `layer`; what is quantised is `weight`, of more bits than its own
        where given.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        source = layer.weight if weight is None else weight.to(layer.weight.device)
        weight8, scale = quantised(source.detach())
        self.register_buffer("weight8", weight8, persistent=False)
        self.register_buffer("scale", scale.mT, persistent=False)

    @property
    def frozen(self) -> tuple[Tensor, Tensor] | tuple[()]:
        """The quantised weight (out, in) and its scales (1, out); none if it is replaced."""
        replaced = getattr(self, "parametrizations", {})
        return () if "weight" in replaced else (self.weight8, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) → (…, out)."""
        frozen = self.frozen
        if not frozen:
            return F.linear(x, self.weight, self.bias)
        y: Tensor = _Product.apply(x, self.weight, self.bias, *frozen)
        return y


def quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, in) in e4m3, and the scale of each (N, 1) fp32."""
    values = rows.float()
    scale = values.abs().amax(-1, keepdim=True).clamp(min=_TINY) / _LARGEST
    return (values / scale).clamp(-_LARGEST, _LARGEST).to(FORMAT), scale


def product(x: Tensor, weight8: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's output (…, out) in the dtype of x (…, in), accumulated in fp32.

    On a GPU by its float8 units, which give bf16; elsewhere the same numbers by fp32 products, in
    which those of two e4m3 values are exact.
    """
    rows, row_scale = quantised(x.flatten(0, -2))
    if x.is_cuda:
        y = torch._scaled_mm(rows, weight8.mT, row_scale, scale, bias, out_dtype=torch.bfloat16)
    else:
        y = (rows.float() @ weight8.float().mT) * row_scale * scale
        y = y if bias is None else y + bias
    return y.to(x.dtype).view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, weight8: Tensor, scale: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight8, scale, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        wants_x, _, wants_bias, *_ = ctx.needs_input_grad
        dbias = dy.flatten(0, -2).sum(0) if wants_bias else None
        return dy @ weight if wants_x else None, None, dbias, None, None
