"""Only the head trains, on frozen features: linear probe and multi-layer head."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Kind, Parameter, Tensors, uniform
from adapters.errors import AdapterError
from adapters.fuse import Update
from adapters.hyperparameters import hyperparameter
from adapters.sites import Sites

_MOMENTUM, _EPS = 0.1, 1e-5  # nn.BatchNorm1d's


@dataclass(frozen=True)
class LinearProbe(Adapter):
    """The head on frozen features, starting at 0; no tensors of its own: count 0."""

    name: ClassVar[str] = "linear"
    head_start: ClassVar[str] = "zero"

    def select(self, sites: Sites) -> Sites:
        return sites.nothing()

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        return {}


@dataclass(frozen=True)
class MLPHead(Adapter):
    """z ← dropout(BatchNorm(ReLU(z W + b))), `hidden` times, then the linear head ("Mlp-k" of VPT,
    arXiv 2203.12119, section 4).

    z (K, B, D), W (D, D). Batch norm is nn.BatchNorm1d over the B images of the trial itself:
    scaled by γ and shifted by β, momentum 0.1; its running mean and variance are `state.<i>.mean`
    and `.var`, not trained. Start: W and b uniform ±1/√D (nn.Linear's), γ = 1, β = 0. All of it is
    head: hidden·(D² + 3D), by the table's counting 0, like `linear`.
    """

    name: ClassVar[str] = "mlp_head"
    hidden: int = hyperparameter(3, low=1)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)

    def select(self, sites: Sites) -> Sites:
        return sites.nothing()

    def start(self, sites: Sites, generator: torch.Generator) -> dict[str, Parameter]:
        """`head.<i>.W`, `.b`, `.gamma`, `.beta` and `state.<i>.mean`, `.var` of every layer."""
        width, parameters = sites.width, dict[str, Parameter]()
        for i in range(self.hidden):
            head = {
                "W": uniform((width, width), 1 / sqrt(width), generator),
                "b": uniform((width,), 1 / sqrt(width), generator),
                "gamma": torch.ones(width),
                "beta": torch.zeros(width),
            }
            state = {"mean": torch.zeros(width), "var": torch.ones(width)}
            parameters |= {f"head.{i}.{n}": Parameter(t, Kind.HEAD) for n, t in head.items()}
            parameters |= {f"state.{i}.{n}": Parameter(t, Kind.STATE) for n, t in state.items()}
        return parameters

    def head(self, tensors: Tensors, context: Context) -> Update:
        def layers(z: Tensor) -> Tensor:
            for i in range(self.hidden):
                w, b = tensors[f"head.{i}.W"], tensors[f"head.{i}.b"]
                z = torch.relu(z @ w + b.unsqueeze(1))
                z = context.drop_activation(_batch_norm(z, tensors, i, context))
            return z

        return layers


def _batch_norm(z: Tensor, tensors: Tensors, layer: int, context: Context) -> Tensor:
    """γ (z − mean) / √(var + ε) + β with the statistics of each trial's own batch in training.

    Then the running ones move towards these in place; in evaluation they are used instead.
    """
    gamma, beta = (tensors[f"head.{layer}.{name}"].unsqueeze(1) for name in ("gamma", "beta"))
    running = [tensors[f"state.{layer}.{name}"] for name in ("mean", "var")]
    if context.training:
        mean, var, unbiased = _moments(z, context)
        for statistic, new in zip(running, (mean, unbiased), strict=True):
            statistic.lerp_(new.detach().squeeze(1), _MOMENTUM)
    else:
        mean, var = (statistic.unsqueeze(1) for statistic in running)
    return (z - mean) * torch.rsqrt(var + _EPS) * gamma + beta


def _moments(z: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and unbiased variance (K, 1, D) over each trial's own images."""
    counted = context.counted or (z.shape[1],) * len(z)
    if min(counted) < 2:
        raise AdapterError(
            "mlp_head's batch norm has no variance over a batch of 1 image; train with at least 2, "
            "also in an epoch's last batch if that is kept."
        )
    if context.counted is None:
        var, mean = torch.var_mean(z, dim=1, correction=0, keepdim=True)
        return mean, var, var * (z.shape[1] / (z.shape[1] - 1))
    weights = context.image_weights(z.shape[1]).unsqueeze(-1)
    mean = (z * weights).sum(1, keepdim=True)
    var = ((z - mean).square() * weights).sum(1, keepdim=True)
    return mean, var, var / (1 - weights.amax(1, keepdim=True))
