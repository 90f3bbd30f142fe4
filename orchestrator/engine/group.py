"""Trials that share a stack: one frozen backbone, one adapter family, one batch size.

Trials enter and leave between steps while the others keep running; every trial's epoch is its own.
Those that find no slot wait, and take the first that becomes free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attach_members, attached
from adapters.base import Kind
from adapters.partial_forward import finish
from adapters.stack import Stack
from orchestrator.backbones import twin
from orchestrator.engine.batches import augmented, take
from orchestrator.engine.evaluation import Evaluator
from orchestrator.engine.frozen import Frozen
from orchestrator.engine.grouping import GroupKey
from orchestrator.engine.stacked import Stacked
from orchestrator.engine.training import Evaluation, Training
from orchestrator.engine.width import WidthPlan, out_of_memory
from orchestrator.errors import BackendError


@dataclass(frozen=True)
class EpochEnd:
    """A trial's epoch is over: its mean loss, and the step of its first non-finite loss."""

    training: Training
    loss: float
    bad_step: int | None


@dataclass
class Work:
    """What was done: images trained and evaluated on, floating-point operations, steps.

    `halved` counts how often memory ran out.
    """

    trained: int = 0
    evaluated: int = 0
    flops: float = 0.0
    steps: int = 0
    halved: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Group:
    """Trials on one stack, stepped together: `trainings` have a slot, `waiting` have none yet.

    Args:
        key: what they have in common.
        frozen: the backbone.
        device: where it is.
        plan: number of slots, and why. `width` is their number now: fewer since memory ran out.
    """

    def __init__(
        self, key: GroupKey, frozen: Frozen, device: torch.device, plan: WidthPlan
    ) -> None:
        self.key, self.frozen, self.device, self.plan = key, frozen, device, plan
        self.width = plan.width
        self.trainings: list[Training] = []
        self.waiting: deque[Training] = deque()
        self.work = Work()
        self._model: nn.Module | None = None
        self._stacked: Stacked | None = None

    def __len__(self) -> int:
        return len(self.trainings) + len(self.waiting)

    def enter(self, training: Training, first: bool = False) -> None:
        """Adds a trial, which takes part as soon as a slot is free; `first`: before all others."""
        if first:
            self.waiting.appendleft(training)
        else:
            self.waiting.append(training)

    def leave(self, training: Training) -> None:
        """Takes a trial out, its tensors and moments back in `training`."""
        if training in self.waiting:
            self.waiting.remove(training)
            return
        self._unstack()
        self.trainings.remove(training)

    def step(self) -> list[EpochEnd]:
        """One optimiser step for every trial with a slot; returns those whose epoch it ended.

        Where the device has no memory for it, half of the trials wait and the step is made again:
        until it is complete, a step changes nothing.
        """
        began = time.perf_counter()
        self._admit()
        while not self._stepped():
            self._halve()
        self._charge(self.trainings, began)
        images = len(self.trainings) * self.key.batch
        each = self.frozen.flops.training(self.key.prefix, self.key.changed)
        self.work += Work(images, 0, images * each, 1)
        return [self._close(t) for t in self.trainings if t.batch == t.batches]

    def evaluate(self, trainings: Sequence[Training]) -> dict[str, Evaluation]:
        """Key → evaluation on each trial's own split, batched over trials that share it."""
        began = time.perf_counter()
        model, cut = self._restack().model, self.key.changed
        budget = max(len(self.trainings) * self.key.batch, 256)
        evaluator = Evaluator(self.frozen, model, cut, budget)
        results: dict[str, Evaluation] = {}
        for split in {id(t.evaluation): t.evaluation for t in trainings}.values():
            sharing = [t for t in trainings if t.evaluation is split]
            found = evaluator.evaluate(split, [self.trainings.index(t) for t in sharing])
            results |= {t.key: one for t, one in zip(sharing, found, strict=True)}
            images = len(split) * len(sharing)
            self.work += Work(0, images, images * self.frozen.flops.forward(cut))
        self._charge(trainings, began)
        return results

    def _admit(self) -> None:
        """Gives free slots to those that wait."""
        while self.waiting and len(self.trainings) < self.width:
            self._unstack()
            self.trainings.append(self.waiting.popleft())

    def _stepped(self) -> bool:
        """Makes a step; False if memory ran out, and then nothing has changed."""
        states: dict[str, Tensor] = {}
        try:
            live = self._restack()
            states = {name: state.clone() for name, state in live.stack.stacked(Kind.STATE).items()}
            live.stack.steps = [training.step for training in self.trainings]
            loss = self._losses(live)
            torch.autograd.backward(loss.sum())
            live.stacked.update(loss.detach())
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return True
        # Here, not above: the exception held the frames, and they the tensors of the failed step.
        self._roll_back(states)
        return False

    def _losses(self, live: _Live) -> Tensor:
        """Mean cross-entropy per trial (K,)."""
        model, cut = live.model, self.key.prefix
        if not model.training:  # it goes through all modules
            model.train()
        splits = [training.train for training in self.trainings]
        indices = [training.indices() for training in self.trainings]
        if cut is None:
            images, labels, sizes = take(splits, indices)
            if self.key.augment == "none":
                look = splits[0].look(sizes)
            else:
                look = augmented(sizes, live.stacked.seeds, live.stacked.optimiser.steps)
            logits = model(self.frozen.inputs(images, look))
        else:
            pairs = list(zip(splits, indices, strict=True))
            begun = torch.cat([self.frozen.prefix(split, cut)[index] for split, index in pairs])
            labels = torch.cat([split.labels[index] for split, index in pairs])
            live.stack.prepare(len(begun), self.frozen.dtype)  # no embedding is there to do it
            whole = cut == self.frozen.features
            logits = live.stack.logits(begun) if whole else finish(model, begun, cut)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses.view(len(splits), -1).mean(1)

    def _roll_back(self, states: dict[str, Tensor]) -> None:
        """As before the step: running statistics, no gradients, nothing of the failed graph."""
        if self._stacked is None:
            return
        stack = self._stacked.stack
        stack.release()
        for parameter in stack.parameters():
            parameter.grad = None
        for name, state in states.items():
            stack.get_buffer(name).copy_(state)

    def _halve(self) -> None:
        """Sends the younger half of the trials back to wait; fewer will be admitted from now on."""
        if len(self.trainings) == 1:
            raise BackendError(
                f"the memory of {self.device} does not hold one trial of {self.key.label()}; use a "
                "smaller batch (--set batch=N), --precision bf16 or a device with more memory."
            )
        self._unstack()
        self.width = len(self.trainings) // 2
        self.waiting.extendleft(reversed(self.trainings[self.width :]))
        del self.trainings[self.width :]
        self.work += Work(halved=1)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _close(self, training: Training) -> EpochEnd:
        assert self._stacked is not None
        loss, bad = self._stacked.epoch_end(training)
        training.close_epoch(loss / training.batches)
        return EpochEnd(training, loss / training.batches, bad)

    def _charge(self, trainings: Sequence[Training], began: float) -> None:
        """The time since `began` to trials, in equal parts."""
        share = (time.perf_counter() - began) / len(trainings)
        for training in trainings:
            training.seconds += share

    def _restack(self) -> _Live:
        """Puts the trials that have a slot on the trial axis, unless they are there."""
        if self._model is None:
            members = [training.member for training in self.trainings]
            self._model = attach_members(twin(self.frozen.model), members)
        stack = attached(self._model)
        if self._stacked is None:
            self._stacked = Stacked(stack, self.trainings, self.device)
        return _Live(self._model, stack, self._stacked)

    def _unstack(self) -> None:
        """Takes every trial's tensors, moments and running loss off the trial axis."""
        if self._stacked is not None:
            self._stacked.take_off()
            self._stacked = None


@dataclass(frozen=True)
class _Live:
    """The adapted model, its stack and what the stack holds now."""

    model: nn.Module
    stack: Stack
    stacked: Stacked
