"""Trials that share a stack: one frozen backbone, one adapter family, one batch size.

Trials enter and leave between steps while the others keep running; every trial's epoch is its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attach_members, attached
from adapters.padding import own_part
from adapters.stack import STATE
from orchestrator.backbones import twin
from orchestrator.engine.batches import Batch, take
from orchestrator.engine.feed import DeviceSplit, Normaliser, StreamedSplit
from orchestrator.engine.optimiser import StackedAdamW
from orchestrator.engine.training import Evaluation, Training


@dataclass(frozen=True)
class EpochEnd:
    """A trial's epoch is over: its mean loss, and the step of its first non-finite loss."""

    training: Training
    loss: float
    bad_step: int | None


def group_key(training: Training) -> tuple[Any, ...]:
    """Trials share a group if this is equal; it is the only place where that is decided."""
    recipe = training.trial.recipe
    return (
        training.adapter.family(),
        recipe.batch,
        recipe.normalisation,
        recipe.precision,
        recipe.augment,  # so that whole images need not be resampled beside cropped ones
        _cacheable(training),
        training.member.classes is None,
        training.key if training.adapter.lone else "",
    )


class Group:
    """K trials on one stack, stepped together."""

    def __init__(self, frozen: nn.Module, normalise: Normaliser, device: torch.device) -> None:
        self.trainings: list[Training] = []
        self._frozen, self._normalise, self._device = frozen, normalise, device
        self._model: nn.Module | None = None
        self._in_stack: list[Training] = []
        self._loss_sum = torch.zeros(0)
        self._bad_step = torch.zeros(0, dtype=torch.int64)

    def enter(self, training: Training) -> None:
        """Adds a trial; it takes part from the next step on."""
        self._unstack()
        self.trainings.append(training)

    def leave(self, training: Training) -> None:
        """Takes a trial out, its tensors and moments back in `training`."""
        self._unstack()
        self.trainings.remove(training)

    def step(self) -> list[EpochEnd]:
        """One optimiser step for every trial; returns those whose epoch it ended."""
        self._restack()
        began = time.perf_counter()
        trainings = self.trainings
        batches = [training.next_batch() for training in trainings]
        loss = self._losses([training.train for training in trainings], batches)
        torch.autograd.backward(loss.sum())
        recipes = [training.trial.recipe for training in trainings]
        self._optimiser.step([t.rate for t in trainings], [r.weight_decay for r in recipes])
        self._account(loss.detach())
        share = (time.perf_counter() - began) / len(trainings)
        for training in trainings:
            training.seconds += share
        return [self._close(t, i) for i, t in enumerate(trainings) if t.batch == t.batches]

    @torch.no_grad()
    def evaluate(self, trainings: Sequence[Training]) -> dict[str, Evaluation]:
        """Key → evaluation on each trial's own split, batched over trials that share it."""
        self._restack()
        began = time.perf_counter()
        results: dict[str, Evaluation] = {}
        for split in {id(t.evaluation): t.evaluation for t in trainings}.values():
            sharing = [t for t in trainings if t.evaluation is split]
            results |= self._evaluate_on(split, sharing)
        share = (time.perf_counter() - began) / len(trainings)
        for training in trainings:
            training.seconds += share
        return results

    def _losses(self, splits: Sequence[DeviceSplit], batches: Sequence[Batch]) -> Tensor:
        """Mean cross-entropy per trial (K,)."""
        model, stack = self._live(), attached(self._live())
        model.train()
        if _cacheable(self.trainings[0]):
            pairs = [(s, b.indices.to(self._device)) for s, b in zip(splits, batches, strict=True)]
            labels = torch.cat([split.labels[index] for split, index in pairs])
            features = torch.cat([self._features(split)[index] for split, index in pairs])
            stack.prepare(len(features), torch.float32)  # no pass through the model does it
            logits = stack.logits(features)
        else:
            images, labels = take(splits, batches)
            boxes = torch.cat([batch.boxes for batch in batches])
            flips = torch.cat([batch.flips for batch in batches])
            logits = model(self._normalise(images, boxes, flips))
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses.view(len(splits), -1).mean(1)

    def _evaluate_on(
        self, split: DeviceSplit | StreamedSplit, sharing: Sequence[Training]
    ) -> dict[str, Evaluation]:
        stack = attached(self._live().eval())
        stack.chosen = [self.trainings.index(training) for training in sharing]
        labels = iter(torch.split(split.labels, self._chunk(len(sharing))))
        try:
            pairs = [_judged(logits, next(labels)) for logits in self._logits(split, len(sharing))]
        finally:
            stack.chosen = None
        losses, right = (torch.cat(some, dim=1) for some in zip(*pairs, strict=True))
        means = losses.mean(1).tolist()
        shares = [count / len(split) for count in right.sum(1).tolist()]
        rows = right.to(torch.uint8).cpu().numpy()
        return {
            t.key: Evaluation(means[i], shares[i], rows[i].tobytes()) for i, t in enumerate(sharing)
        }

    def _chunk(self, trials: int) -> int:
        """Images evaluated at once: a forward pass holds about as many as a training step."""
        budget = max(len(self.trainings) * self.trainings[0].trial.recipe.batch, 256)
        return max(1, budget // trials)

    def _logits(self, split: DeviceSplit | StreamedSplit, trials: int) -> Iterator[Tensor]:
        """Chunk by chunk, the same images through every chosen trial: (trials, images, classes)."""
        size, model = self._chunk(trials), self._live()
        if _cacheable(self.trainings[0]):
            attached(model).prepare(trials, torch.float32)
            for features in torch.split(self._features(split), size):
                logits = attached(model).logits(features.repeat(trials, 1))
                yield logits.view(trials, -1, logits.shape[-1])
        else:
            for images, boxes in split.chunks(size):
                inputs = self._normalise(images, boxes).repeat(trials, 1, 1, 1)
                logits = model(inputs)
                yield logits.view(trials, -1, logits.shape[-1])

    @torch.no_grad()
    def _features(self, split: DeviceSplit | StreamedSplit) -> Tensor:
        """The frozen backbone's features (N, D), computed once per split."""
        recipe = self.trainings[0].trial.recipe
        place = (recipe.normalisation, recipe.precision)
        if place not in split.features:
            self._frozen.eval()
            parts = [self._frozen(self._normalise(*chunk)) for chunk in split.chunks(256)]
            split.features[place] = torch.cat(parts).float()
        return split.features[place]

    def _account(self, loss: Tensor) -> None:
        """Sums losses and notes the first non-finite one, on the device."""
        self._loss_sum += loss
        step = torch.tensor([training.step for training in self.trainings], device=self._device)
        new = ~torch.isfinite(loss) & (self._bad_step < 0)
        self._bad_step = torch.where(new, step, self._bad_step)

    def _close(self, training: Training, index: int) -> EpochEnd:
        loss = self._loss_sum[index].item() / training.batches
        bad = int(self._bad_step[index].item())
        self._loss_sum[index] = 0
        self._bad_step[index] = -1
        training.close_epoch(loss)
        return EpochEnd(training, loss, bad if bad >= 0 else None)

    def _live(self) -> nn.Module:
        assert self._model is not None
        return self._model

    def _restack(self) -> None:
        """Puts the trials that are now in the group on the trial axis."""
        if self._in_stack:
            return
        members = [training.member for training in self.trainings]
        if self._model is None:
            self._model = attach_members(twin(self._frozen), members)
        stack = attached(self._model)
        stack.rebuild(members, self._device)
        stack.steps = [training.step for training in self.trainings]
        self._optimiser = StackedAdamW(dict(stack.named_parameters()))
        self._loss_sum = torch.zeros(len(members), device=self._device)
        self._bad_step = torch.full((len(members),), -1, device=self._device)
        for index, training in enumerate(self.trainings):
            moments = {name.replace(".", "/"): pair for name, pair in training.moments.items()}
            self._optimiser.restore(index, training.step, moments)
            self._loss_sum[index] = training.loss_sum
            self._bad_step[index] = training.bad_step
        self._in_stack = list(self.trainings)

    def _unstack(self) -> None:
        """Takes every trial's tensors, moments and running loss off the trial axis."""
        if not self._in_stack:
            return
        stack = attached(self._live())
        moments = self._optimiser.moments()
        for index, training in enumerate(self._in_stack):
            training.member = replace(training.member, tensors=stack.tensors_of(index))
            training.moments = {
                name: _pair(moments[name.replace(".", "/")], index, shape)
                for name, shape in stack.shapes[index].items()
                if not name.startswith(STATE)
            }
            training.loss_sum = float(self._loss_sum[index])
            training.bad_step = int(self._bad_step[index])
        self._in_stack = []


def _judged(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every image and whether it is right, (K, n), for logits (K, n, classes)."""
    targets = labels.expand(len(logits), -1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets), logits.argmax(-1) == targets


def _pair(
    moments: tuple[Tensor, Tensor], index: int, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    first, second = (own_part(moment, index, shape) for moment in moments)
    return first, second


def _cacheable(training: Training) -> bool:
    """Whether the trial's features are fixed: nothing adapted, nothing random before the head."""
    fixed = training.member.drop_path == 0 and training.trial.recipe.augment == "none"
    return fixed and training.adapter.frozen_features
