"""Trials on the trial axis between two changes of company: tensors, moments and running losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adapters.base import Kind
from adapters.stack import Stack
from adapters.trial_axis import own_part
from orchestrator.engine.optimiser import StackedAdamW
from orchestrator.engine.training import Training


class Stacked:
    """Puts trials on a stack when it is made, and takes them off by `take_off`.

    `seeds` (K,) int64, `loss_sum` (K,) of the current epochs and `bad_step` (K,), of the first
    loss that was not finite or -1, are on the device.
    """

    def __init__(self, stack: Stack, trainings: Sequence[Training], device: torch.device) -> None:
        self.stack, self.trainings = stack, tuple(trainings)
        stack.rebuild([training.member for training in trainings], device)
        self.optimiser = StackedAdamW(dict(stack.named_parameters()), stack.undecayed)
        for index, training in enumerate(trainings):
            moments = {name.replace(".", "/"): pair for name, pair in training.moments.items()}
            self.optimiser.restore(index, training.step, moments)
        self.loss_sum = torch.tensor([float(t.loss_sum) for t in trainings], device=device)
        self.bad_step = torch.tensor([t.bad_step for t in trainings], device=device)
        self.seeds = torch.tensor([t.trial.seed for t in trainings], device=device)

    def update(self, loss: Tensor) -> None:
        """One optimiser step from the gradients of losses (K,); wholly or not at all."""
        rates = [training.rate for training in self.trainings]
        decays = [training.trial.recipe.weight_decay for training in self.trainings]
        new = ~torch.isfinite(loss) & (self.bad_step < 0)
        bad_step = torch.where(new, self.optimiser.steps + 1, self.bad_step)
        self.optimiser.step(rates, decays)
        self.bad_step = bad_step
        self.loss_sum += loss
        for training in self.trainings:
            training.advance()

    def epoch_end(self, training: Training) -> tuple[float, int | None]:
        """A trial's summed loss and the step of its first bad one; begins anew."""
        index = self.trainings.index(training)
        loss, bad = self.loss_sum[index].item(), int(self.bad_step[index].item())
        self.loss_sum[index] = 0
        self.bad_step[index] = -1
        return loss, bad if bad >= 0 else None

    def take_off(self) -> None:
        """Gives every trial what is its own."""
        moments = self.optimiser.moments()
        sums, bad = self.loss_sum.tolist(), self.bad_step.tolist()
        for index, training in enumerate(self.trainings):
            training.member = training.member.with_tensors(self.stack.tensors_of(index))
            training.moments = {
                name: _pair(moments[name.replace(".", "/")], index, shape)
                for name, shape in self.stack.shapes[index].items()
                if self.stack.declared[name].kind is not Kind.STATE
            }
            training.loss_sum, training.bad_step = sums[index], bad[index]


def _pair(
    moments: tuple[Tensor, Tensor], index: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    first, second = (own_part(moment, index, shape) for moment in moments)
    return first, second
