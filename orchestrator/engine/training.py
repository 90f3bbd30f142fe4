"""One trial on its way: what the engine keeps of it between steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adapters.base import Adapter, Tensors
from adapters.stack import Member
from orchestrator import provenance
from orchestrator.engine import draws
from orchestrator.engine.feed import DeviceSplit, StreamedSplit
from orchestrator.engine.schedule import learning_rate
from orchestrator.errors import DataError
from orchestrator.spec import Point, Status, Trial, TrialResult

Moments = dict[str, tuple[Tensor, Tensor]]
PAPER_INTERVAL = 10
"""Under the protocol `paper`, epochs from one evaluation on test to the next."""


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, accuracy in [0, 1] and one byte per image (1 = right) of one trial."""

    loss: float
    accuracy: float
    correct: bytes


@dataclass(eq=False)
class Training:
    """A trial's data, tensors (at its own shapes, while it is outside a stack) and progress.

    `epoch` counts completed epochs, `step` optimiser steps, `batch` those of the current epoch.
    `pauses` are the epochs after which the trial waits for a decision. `counted` is the evaluation
    that its record states: the latest, or under the protocol `paper` the (first) best.
    """

    trial: Trial
    train: DeviceSplit
    evaluation: DeviceSplit | StreamedSplit
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
    """Of the current epoch, outside a stack: summed losses, step of the first non-finite one."""
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
        """Whether this is a final trial, whose trained tensors are kept."""
        return self.trial.stage == "final"

    @property
    def test_reads(self) -> int:
        """How often the test split was read: every evaluation of a trial that has one."""
        evaluated = sum(point.eval_accuracy is not None for point in self.curve)
        return evaluated if self.trial.reads_test else 0

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch == self.trial.recipe.epochs

    @property
    def rate(self) -> float:
        """The learning rate of the current epoch."""
        return learning_rate(self.trial.recipe, self.epoch)

    def evaluates(self) -> bool:
        """Whether the epoch that just ended is evaluated.

        Every one on val; on test the last only, under the protocol `paper` every tenth as well.
        """
        if self.done or not self.trial.reads_test:
            return True
        return self.trial.leaks and self.epoch % PAPER_INTERVAL == 0

    def indices(self) -> Tensor:
        """The next training images (B,), on the device; `advance` goes on to those after."""
        if self._order is None:
            device = self.train.labels.device
            self._order = draws.order(len(self.train), self.trial.seed, self.epoch, device)
        batch = self.trial.recipe.batch
        return self._order[self.batch * batch : (self.batch + 1) * batch]

    def advance(self) -> None:
        """Notes that a step was made."""
        self.batch += 1
        self.step += 1

    def close_epoch(self, loss: float) -> None:
        """Notes the end of an epoch with its mean training loss."""
        self.curve.append(Point(self.epoch + 1, self.rate, loss))
        self.epoch += 1
        self.batch = 0
        self._order = None

    def rehearsal(self) -> Training:
        """The same trial at its start, to be measured with: it leaves no trace in this one."""
        return Training(self.trial, self.train, self.evaluation, self.member)

    def note_evaluation(self, found: Evaluation) -> None:
        """Adds the evaluation of the epoch that just ended."""
        self.curve[-1] = replace(self.curve[-1], eval_loss=found.loss, eval_accuracy=found.accuracy)
        best = self.counted
        if best is None or not self.trial.leaks or found.accuracy > best.accuracy:
            self.counted = found

    def result(self, status: Status, device: torch.device, message: str = "") -> TrialResult:
        """The frozen record of the trial as it stands; a diverged one states no evaluation."""
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


def own_tensors(training: Training) -> Tensors:
    """The trial's tensors on the CPU, as they are saved."""
    return {name: tensor.cpu() for name, tensor in training.member.tensors.items()}


def _finite(point: Point) -> Point:
    """A record without NaN or infinity in its evaluation, which JSON and tables cannot hold."""
    loss = (
        point.eval_loss if point.eval_loss is not None and math.isfinite(point.eval_loss) else None
    )
    return Point(point.epoch, point.lr, point.loss, loss, point.eval_accuracy)
