"""AdamW over a stack: one step for K trials with their own step sizes, decays and step counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8


class StackedAdamW:
    """Decoupled weight decay Adam (Loshchilov & Hutter 2019), equal to torch's for each trial alone.

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
        self._steps = torch.zeros(trials, 1, device=first.device)
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
                target = self._shaped(flat, name)[(index, *map(slice, tensor.shape))]
                target.copy_(tensor)

    @torch.no_grad()
    def step(self, lr: Sequence[float], weight_decay: Sequence[float]) -> None:
        """One update from the parameters' gradients, which are consumed; one value per trial."""
        trials = len(lr)
        grads = [p.grad for p in self._parameters.values()]
        flat = torch.cat([g.reshape(trials, -1) for g in grads if g is not None], dim=1)
        rate, decay = (self._column(values) for values in (lr, weight_decay))
        self._steps += 1
        self._flat.mul_(1 - rate * decay)
        self._first.lerp_(flat, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(flat, flat, value=1 - BETAS[1])
        correction = (1 - BETAS[1] ** self._steps).sqrt()
        denominator = (self._second.sqrt() / correction).add_(EPS)
        self._flat.sub_(self._first / denominator * (rate / (1 - BETAS[0] ** self._steps)))
        for parameter in self._parameters.values():
            parameter.grad = None

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._flat.device, dtype=self._flat.dtype).unsqueeze(1)

    def _shaped(self, flat: Tensor, name: str) -> Tensor:
        return flat[:, self._spans[name]].view(self._parameters[name].shape)
