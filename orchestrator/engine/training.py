"""The state of one trial in a pool: its data, tensors and progress."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adapters.base import Adapter
from adapters.stack import Member
from orchestrator import provenance
from orchestrator.engine.evaluation import Evaluation
from orchestrator.engine.input import AnySplit, DeviceSplit, epoch_order
from orchestrator.engine.optimiser import learning_rate
from orchestrator.errors import DataError
from orchestrator.spec import Point, Status, Trial, TrialResult

Moments = dict[str, tuple[Tensor, ...]]
PAPER_INTERVAL = 10
"""Epochs from one evaluation on test to the next under the protocol `paper`."""


@dataclass(eq=False)
class Training:
    """A trial's data, tensors (of its own shapes, valid while it is outside a stack) and progress.

    `epoch` counts completed epochs, `step` optimiser steps, `batch` those of the current epoch.
    `pauses` are the epochs after which the trial waits for a decision. `counted` is the evaluation
    that its record states: the latest, or under the protocol `paper` the (first) best. `loss_sum`
    and `bad_step` (step of the first non-finite loss, -1 for none) are of the current epoch.
    """

    trial: Trial
    train: DeviceSplit
    evaluation: AnySplit
    member: Member
    pauses: frozenset[int] = frozenset()
    moments: Moments = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    batch: int = 0
    curve: list[Point] = field(default_factory=list)
    counted: Evaluation | None = None
    seconds: float = 0.0
    started: float = field(default_factory=time.time)
    loss_sum: float = 0.0
    bad_step: int = -1
    _order: Tensor | None = None

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise DataError(
                f"batch {self.trial.recipe.batch} is larger than the training split of task "
                f"'{self.trial.task}'; use --set batch={len(self.train)} (all its images) or less, "
                "or --set last_batch=keep."
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
        """Steps per epoch; whether the last, incomplete batch is one says the recipe."""
        whole, rest = divmod(len(self.train), self.trial.recipe.batch)
        return whole + (self.trial.recipe.last_batch == "keep" and rest > 0)

    @property
    def images(self) -> int:
        """The number of images of the next batch: less than the recipe's in a last one."""
        batch = self.trial.recipe.batch
        return min(batch, len(self.train) - self.batch * batch)

    @property
    def final(self) -> bool:
        """Whether this is a final trial, whose trained tensors are saved."""
        return self.trial.stage == "final"

    @property
    def classes(self) -> int:
        """The number of the task's classes."""
        return self.member.tensors["head.bias"].numel()

    @property
    def keeps_logits(self) -> bool:
        """Whether the evaluation that comes now is one whose logits are kept: the last of a
        replicate or final trial, but not where choices are made on test.
        """
        return self.done and self.trial.stage != "search" and not self.trial.leaks

    @property
    def test_reads(self) -> int:
        """How many evaluations read the test split."""
        evaluated = sum(point.eval_accuracy is not None for point in self.curve)
        return evaluated if self.trial.reads_test else 0

    @property
    def done(self) -> bool:
        """Whether all epochs are completed."""
        return self.epoch == self.trial.recipe.epochs

    @property
    def rate(self) -> float:
        """The learning rate of the next step, or after an epoch's last one of that."""
        step = min(self.batch, self.batches - 1)
        return learning_rate(self.trial.recipe, self.epoch, step, self.batches)

    def evaluates(self) -> bool:
        """Whether to evaluate after the epoch that just ended.

        On val at rungs, the last epoch and as often as the recipe says; on test after the last, and
        under the protocol `paper` every tenth.
        """
        every = self.trial.recipe.evaluate_every
        if self.trial.reads_test:
            every = PAPER_INTERVAL if self.trial.leaks else 0
        looked_at = self.done or self.epoch in self.pauses
        return looked_at or (every > 0 and self.epoch % every == 0)

    def indices(self) -> Tensor:
        """Indices (B,) of the next batch, on the device; `advance` moves on.

        An incomplete batch is filled up by its own `images`, repeated in their order.
        """
        if self._order is None:
            device = self.train.labels.device
            self._order = epoch_order(len(self.train), self.trial.seed, self.epoch, device)
        batch = self.trial.recipe.batch
        own = self._order[self.batch * batch : (self.batch + 1) * batch]
        return own if len(own) == batch else own.repeat(-(-batch // len(own)))[:batch]

    def advance(self) -> None:
        """Count a step."""
        self.batch += 1
        self.step += 1

    def close_epoch(self, loss: float) -> None:
        """End an epoch with its mean training loss."""
        self.curve.append(Point(self.epoch + 1, self.rate, loss))
        self.epoch += 1
        self.batch = 0
        self._order = None

    def fresh_copy(self) -> Training:
        """The same trial at its start, for the warm-up benchmark; independent of this one."""
        return Training(self.trial, self.train, self.evaluation, self.member)

    def record_evaluation(self, found: Evaluation) -> None:
        """Add the evaluation of the epoch that just ended."""
        self.curve[-1] = replace(self.curve[-1], eval_loss=found.loss, eval_accuracy=found.accuracy)
        best = self.counted
        if best is None or not self.trial.leaks or found.accuracy > best.accuracy:
            self.counted = found

    def result(self, status: Status, device: torch.device, message: str = "") -> TrialResult:
        """The trial's record as it stands; a diverged one has no evaluation."""
        counted = None if status == "diverged" else self.counted
        return TrialResult(
            trial=self.trial,
            status=status,
            value=counted.accuracy if counted else None,
            eval_loss=counted.loss if counted else None,
            epochs_run=self.epoch,
            curve=tuple(map(_finite, self.curve)),
            correct=counted.correct if counted else b"",
            parameters=self.member.trained_count,
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


def _finite(point: Point) -> Point:
    """The point without a non-finite evaluation loss, which JSON and tables cannot hold."""
    finite = point.eval_loss is not None and math.isfinite(point.eval_loss)
    return point if finite else replace(point, eval_loss=None)
