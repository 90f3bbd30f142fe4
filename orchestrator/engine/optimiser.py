"""Optimisers of K stacked trials, each with its own rate, decay and step count; schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from math import cos, inf, pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from adapters.trial_axis import own_region
from orchestrator.spec import Recipe

BETAS = (0.9, 0.999)
EPS = 1e-8
MOMENTUM = 0.9


class StackedOptimiser(ABC):
    """What the optimisers share.

    The stack's parameters (K, …) become views of one flat (K, P) tensor, so that a step takes a
    dozen operations however many tensors an adapter has. All operations are elementwise along K: a
    NaN stays in its trial. Nothing waits for the device: step counts live there, and learning rates
    are copied only when they change.
    """

    moment_count: ClassVar[int]
    """How many moments there are of every parameter."""

    steps: Tensor
    """Steps made by each trial (K,) int64."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], undecayed: Collection[str] = ()
    ) -> None:
        """`undecayed` names the parameters that weight decay spares."""
        self._parameters = dict(parameters)
        first = next(iter(self._parameters.values()))
        trials = first.shape[0]
        self._flat = torch.cat([p.detach().reshape(trials, -1) for p in parameters.values()], dim=1)
        self._moments = [torch.zeros_like(self._flat) for _ in range(self.moment_count)]
        self.steps = torch.zeros(trials, dtype=torch.int64, device=self._flat.device)
        self._sent: tuple[Sequence[float], ...] | None = None
        self._rates = self._decays = self._limits = torch.zeros(0)
        self._spans: dict[str, slice] = {}
        self._undecayed = torch.zeros_like(self._flat[0], dtype=torch.bool)
        start = 0
        for name, parameter in self._parameters.items():
            span = slice(start, start + parameter[0].numel())
            parameter.data = self._flat[:, span].view(parameter.shape)
            self._undecayed[span] = name in undecayed
            self._spans[name], start = span, span.stop

    def moments(self) -> dict[str, tuple[Tensor, ...]]:
        """Name → views of its moments, shaped as the parameter (K, …)."""
        return {
            name: tuple(self._shaped(flat, name) for flat in self._moments)
            for name in self._parameters
        }

    def restore(self, index: int, steps: int, moments: Mapping[str, Sequence[Tensor]]) -> None:
        """Set one trial's step count and moments (of its own, unpadded shapes)."""
        self.steps[index] = steps
        for name, own in moments.items():
            for flat, tensor in zip(self._moments, own, strict=True):
                self._shaped(flat, name)[own_region(index, tensor.shape)] = tensor.to(flat.device)

    @torch.no_grad()
    def step(
        self, lr: Sequence[float], weight_decay: Sequence[float], clip: Sequence[float] = ()
    ) -> None:
        """Update from the parameters' gradients, which are consumed; one value per trial of each.

        `clip` (0: off) is the norm to which a trial's longer gradient is scaled. Atomic: whatever
        could run out of memory comes before the first change.
        """
        grad = torch.cat([_gradient(p) for p in self._parameters.values()], dim=1)
        self._send_rates(lr, weight_decay, [limit or inf for limit in clip] or [inf] * len(lr))
        if any(clip):
            norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True)
            grad = grad * (self._column(self._limits) / (norm + 1e-6)).clamp(max=1)
        self._apply(grad)
        self.steps += 1
        for parameter in self._parameters.values():
            parameter.grad = None

    @abstractmethod
    def _apply(self, grad: Tensor) -> None:
        """Change parameters and moments by a gradient (K, P); allocates before the first change."""

    def _send_rates(self, *values: Sequence[float]) -> None:
        """Copy rates, decays and limits to the device if they changed since the last step."""
        if self._sent != values:
            # Pinned: a schedule by step sends new rates at every one, and none may wait.
            pinned = torch.tensor(values, dtype=torch.float64, pin_memory=self._flat.is_cuda)
            sent = pinned.to(self._flat.device, non_blocking=True)
            self._rates, self._decays, self._limits = sent.unbind()
            self._sent = values

    def _column(self, values: Tensor) -> Tensor:
        return values.to(self._flat.dtype).unsqueeze(1)

    def _shaped(self, flat: Tensor, name: str) -> Tensor:
        return flat[:, self._spans[name]].view(self._parameters[name].shape)


class StackedAdamW(StackedOptimiser):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), equal to torch's per trial."""

    moment_count = 2

    def _apply(self, grad: Tensor) -> None:
        count = (self.steps + 1).double()  # scalars in fp64, as torch computes them
        size = self._rates / (1 - BETAS[0] ** count)
        correction = (1 - BETAS[1] ** count).sqrt()
        first, second = self._moments
        first = first.lerp(grad, 1 - BETAS[0])
        second = (second * BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        update = first.div(second.sqrt().div_(self._column(correction)).add_(EPS))
        update.mul_(self._column(size))
        keep = self._column(1 - self._rates * self._decays).masked_fill(self._undecayed, 1.0)
        self._flat.mul_(keep).sub_(update)
        self._moments = [first, second]


class StackedSGD(StackedOptimiser):
    """SGD with momentum 0.9, weight decay added to the gradient; equal to torch's per trial."""

    moment_count = 1

    def _apply(self, grad: Tensor) -> None:
        decay = self._column(self._decays).masked_fill(self._undecayed, 0.0)
        momentum = torch.addcmul(grad, self._flat, decay)
        momentum.add_(self._moments[0], alpha=MOMENTUM)
        update = momentum * self._column(self._rates)
        self._flat.sub_(update)
        self._moments = [momentum]


STACKED: Mapping[str, type[StackedOptimiser]] = {"adamw": StackedAdamW, "sgd": StackedSGD}
"""By the recipe's `optimiser`."""


def _gradient(parameter: nn.Parameter) -> Tensor:
    """(K, P); zeros for a tensor that the loss does not depend on."""
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grad.reshape(len(grad), -1)


def learning_rate(recipe: Recipe, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of epoch 0, 1, …, epochs − 1, at its `step` 0, 1, …, `steps` − 1.

    `cosine`: linear from warmup_lr (epoch 0) to lr (epoch warmup_epochs), then half a cosine to
    min_lr, at which the last cooldown_epochs run. `timm`: timm's scheduler, which counts the cosine
    from epoch 0, so that the peak is below lr. `timm_epoch`: the same stepped after the epoch, as
    the published EFFT and FacT scripts do, so that epochs 0 and 1 run at warmup_lr (the peak is
    9.76e-4 for lr 1e-3 and 10 of 100 epochs of warm-up). With all of these the rate is constant
    within an epoch; `cosine_step` is `cosine` followed within epochs too.
    """
    begin = recipe.warmup_epochs if recipe.schedule.startswith("cosine") else 0
    end = recipe.epochs - recipe.cooldown_epochs
    time = float(max(epoch - 1, 0) if recipe.schedule == "timm_epoch" else epoch)
    if recipe.schedule == "cosine_step":
        time += step / steps
    if time < recipe.warmup_epochs:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * time / recipe.warmup_epochs
    progress = min((time - begin) / (end - begin), 1.0)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + cos(pi * progress))
