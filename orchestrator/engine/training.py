"""One trial on its way: what the engine keeps of it between steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adapters.base import Adapter, Tensors
from adapters.stack import Member
from orchestrator import provenance
from orchestrator.engine.feed import DeviceSplit, epoch_order
from orchestrator.engine.schedule import learning_rate
from orchestrator.errors import DataError
from orchestrator.spec import Point, Status, Trial, TrialResult

Moments = dict[str, tuple[Tensor, Tensor]]


@dataclass(eq=False)
class Training:
    """A trial's data, tensors (at its own shapes, while it is outside a stack) and progress.

    `epoch` counts completed epochs, `step` optimiser steps, `batch` those of the current epoch.
    `pauses` are the epochs after which the trial waits for a decision.
    """

    trial: Trial
    train: DeviceSplit
    evaluation: DeviceSplit
    member: Member
    pauses: frozenset[int] = frozenset()
    moments: Moments = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    batch: int = 0
    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    started: float = field(default_factory=time.time)
    loss_sum: float = 0.0
    bad_step: int = -1
    """Of the current epoch, outside a stack: summed losses, step of the first non-finite one."""
    test_reads: int = 0
    _order: Tensor | None = None

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise DataError(
                f"batch {self.trial.recipe.batch} is larger than the training split of task "
                f"'{self.trial.task}'; use --set batch={len(self.train)} (all its images) or less."
            )

    @property
    def key(self) -> str:
        """The trial's key."""
        return self.trial.key

    @property
    def adapter(self) -> Adapter:
        """The trial's adapter."""
        return self.member.adapter

    @property
    def batches(self) -> int:
        """Steps of an epoch; the last incomplete batch is dropped."""
        return len(self.train) // self.trial.recipe.batch

    @property
    def final(self) -> bool:
        """Whether this is a final trial, which evaluates (on test) only once, at its end."""
        return self.trial.stage == "final"

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch == self.trial.recipe.epochs

    @property
    def rate(self) -> float:
        """The learning rate of the current epoch."""
        return learning_rate(self.trial.recipe, self.epoch)

    def evaluates(self) -> bool:
        """Whether the epoch that just ended is evaluated."""
        return self.done or not self.final

    def next_batch(self) -> Tensor:
        """Indices (B,) of the next training images; advances the position."""
        if self._order is None or self.batch == 0:
            order = epoch_order(len(self.train), self.trial.seed, self.epoch)
            self._order = order.to(self.train.labels.device)
        size = self.trial.recipe.batch
        start = self.batch * size
        self.batch += 1
        self.step += 1
        return self._order[start : start + size]

    def close_epoch(self, loss: float) -> None:
        """Notes the end of an epoch with its mean training loss."""
        self.curve.append(Point(self.epoch + 1, self.rate, loss))
        self.epoch += 1
        self.batch = 0

    def note_evaluation(self, loss: float, accuracy: float) -> None:
        """Adds the evaluation of the epoch that just ended."""
        self.test_reads += self.final
        last = self.curve[-1]
        self.curve[-1] = Point(last.epoch, last.lr, last.loss, loss, accuracy)

    def result(
        self, status: Status, correct: bytes, device: torch.device, message: str = ""
    ) -> TrialResult:
        """The frozen record of the trial as it stands."""
        last = self.curve[-1] if self.curve else None
        ok = status != "diverged" and last is not None
        own = (t.numel() for name, t in self.member.tensors.items() if not name.startswith("head."))
        return TrialResult(
            trial=self.trial,
            status=status,
            value=last.eval_accuracy if ok and last else None,
            eval_loss=last.eval_loss if ok and last else None,
            epochs_run=self.epoch,
            curve=tuple(map(_finite, self.curve)),
            correct=correct,
            parameters=sum(own),
            message=message,
            test_reads=self.test_reads,
            seconds=self.seconds,
            started=self.started,
            finished=time.time(),
            host=provenance.host(),
            device=str(device),
            code=provenance.code_version(),
            versions=provenance.package_versions(),
        )


def own_tensors(training: Training) -> Tensors:
    """The trial's tensors on the CPU, as they are saved."""
    return {name: tensor.cpu() for name, tensor in training.member.tensors.items()}


def _finite(point: Point) -> Point:
    """A record without NaN or infinity in its evaluation, which JSON and tables cannot hold."""
    loss = (
        point.eval_loss if point.eval_loss is not None and math.isfinite(point.eval_loss) else None
    )
    return Point(point.epoch, point.lr, point.loss, loss, point.eval_accuracy)
