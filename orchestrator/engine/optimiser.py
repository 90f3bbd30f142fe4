"""AdamW over a stack: one step for K trials with their own step sizes, decays and step counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from adapters.trial_axis import own_region

BETAS = (0.9, 0.999)
EPS = 1e-8


class StackedAdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), for each trial equal to torch's.

    The stack's parameters (K, …) become views of one flat (K, P) tensor, so that a step is a dozen
    operations however many tensors a method has. Everything is elementwise along K: a trial's NaN
    stays its own. Nothing waits for the device: step counts live there, and what the host says of
    step sizes travels only when it changes.
    """

    steps: Tensor
    """Steps done by every trial (K,) int64."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], undecayed: Collection[str] = ()
    ) -> None:
        """`undecayed` names the parameters that weight decay spares."""
        self._parameters = dict(parameters)
        first = next(iter(self._parameters.values()))
        trials = first.shape[0]
        self._flat = torch.cat([p.detach().reshape(trials, -1) for p in parameters.values()], dim=1)
        self._first = torch.zeros_like(self._flat)
        self._second = torch.zeros_like(self._flat)
        self.steps = torch.zeros(trials, dtype=torch.int64, device=self._flat.device)
        self._said: tuple[Sequence[float], Sequence[float]] | None = None
        self._rates = self._decays = torch.zeros(0)
        self._spans: dict[str, slice] = {}
        start = 0
        for name, parameter in self._parameters.items():
            span = slice(start, start + parameter[0].numel())
            parameter.data = self._flat[:, span].view(parameter.shape)
            self._spans[name], start = span, span.stop
        self._spared = [self._spans[name] for name in undecayed]

    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name → views of the first and second moments, shaped like the parameter (K, …)."""
        return {
            name: (self._shaped(self._first, name), self._shaped(self._second, name))
            for name in self._parameters
        }

    def restore(self, index: int, steps: int, moments: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Sets one trial's step count and moments (at its own, unpadded shapes)."""
        self.steps[index] = steps
        for name, own in moments.items():
            for flat, tensor in zip((self._first, self._second), own, strict=True):
                self._shaped(flat, name)[own_region(index, tensor.shape)] = tensor.to(flat.device)

    @torch.no_grad()
    def step(self, lr: Sequence[float], weight_decay: Sequence[float]) -> None:
        """One update from the parameters' gradients, which are consumed; one value per trial.

        Wholly or not at all: what could run out of memory comes before the first change.
        """
        grad = torch.cat([_gradient(p) for p in self._parameters.values()], dim=1)
        self._say(lr, weight_decay)
        count = (self.steps + 1).double()  # the scalars of each trial in fp64, as torch has them
        size = self._rates / (1 - BETAS[0] ** count)
        correction = (1 - BETAS[1] ** count).sqrt()
        keep = 1 - self._rates * self._decays
        first = self._first.lerp(grad, 1 - BETAS[0])
        second = (self._second * BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        denominator = second.sqrt().div_(self._column(correction)).add_(EPS)
        update = first.div(denominator).mul_(self._column(size))
        spared = [self._flat[:, span].clone() for span in self._spared]
        self._flat.mul_(self._column(keep))
        for span, before in zip(self._spared, spared, strict=True):
            self._flat[:, span] = before
        self._flat.sub_(update)
        self._first, self._second = first, second
        self.steps += 1
        for parameter in self._parameters.values():
            parameter.grad = None

    def _say(self, lr: Sequence[float], weight_decay: Sequence[float]) -> None:
        """Brings the rates to the device if they are others than in the last step."""
        if self._said != (lr, weight_decay):
            said = torch.tensor([lr, weight_decay], dtype=torch.float64, device=self._flat.device)
            self._rates, self._decays = said.unbind()
            self._said = (lr, weight_decay)

    def _column(self, values: Tensor) -> Tensor:
        return values.to(self._flat.dtype).unsqueeze(1)

    def _shaped(self, flat: Tensor, name: str) -> Tensor:
        return flat[:, self._spans[name]].view(self._parameters[name].shape)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """(K, P); zeros for a tensor that the loss does not depend on."""
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grad.reshape(len(grad), -1)
