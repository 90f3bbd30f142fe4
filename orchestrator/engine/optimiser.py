"""AdamW over a stack: one step for K trials with their own step sizes, decays and step counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from adapters.padding import own_region

BETAS = (0.9, 0.999)
EPS = 1e-8


class StackedAdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), for each trial equal to torch's.

    The stack's parameters (K, …) become views of one flat (K, P) tensor, so that a step is a dozen
    operations however many tensors a method has. Everything is elementwise along K: a trial's NaN
    stays its own.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        first = next(iter(self._parameters.values()))
        trials = first.shape[0]
        self._flat = torch.cat([p.detach().reshape(trials, -1) for p in parameters.values()], dim=1)
        self._first = torch.zeros_like(self._flat)
        self._second = torch.zeros_like(self._flat)
        self._steps = [0] * trials
        self._spans: dict[str, slice] = {}
        start = 0
        for name, parameter in self._parameters.items():
            span = slice(start, start + parameter[0].numel())
            parameter.data = self._flat[:, span].view(parameter.shape)
            self._spans[name], start = span, span.stop

    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name → views of the first and second moments, shaped like the parameter (K, …)."""
        return {
            name: (self._shaped(self._first, name), self._shaped(self._second, name))
            for name in self._parameters
        }

    def restore(self, index: int, steps: int, moments: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Sets one trial's step count and moments (at its own, unpadded shapes)."""
        self._steps[index] = steps
        for name, own in moments.items():
            for flat, tensor in zip((self._first, self._second), own, strict=True):
                self._shaped(flat, name)[own_region(index, tensor.shape)] = tensor.to(flat.device)

    @torch.no_grad()
    def step(self, lr: Sequence[float], weight_decay: Sequence[float]) -> None:
        """One update from the parameters' gradients, which are consumed; one value per trial."""
        grad = torch.cat([_gradient(p) for p in self._parameters.values()], dim=1)
        self._steps = [step + 1 for step in self._steps]
        # The scalars of each trial in double precision, as torch has them, then one column each.
        keep = [1 - rate * decay for rate, decay in zip(lr, weight_decay, strict=True)]
        size = [r / (1 - BETAS[0] ** s) for r, s in zip(lr, self._steps, strict=True)]
        correction = [sqrt(1 - BETAS[1] ** s) for s in self._steps]
        self._flat.mul_(self._column(keep))
        self._first.lerp_(grad, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        denominator = (self._second.sqrt() / self._column(correction)).add_(EPS)
        self._flat.sub_(self._first / denominator * self._column(size))
        for parameter in self._parameters.values():
            parameter.grad = None

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._flat.device, dtype=self._flat.dtype).unsqueeze(1)

    def _shaped(self, flat: Tensor, name: str) -> Tensor:
        return flat[:, self._spans[name]].view(self._parameters[name].shape)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """(K, P); zeros for a tensor that the loss does not depend on."""
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grad.reshape(len(grad), -1)
