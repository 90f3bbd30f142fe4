"""The pool: owns a device and trains many trials at once on one frozen backbone.

    pool.add(trial, data, pauses)          # any time
    for event in pool.advance(): ...       # one step of every group
    pool.proceed(key) / pool.stop(key)     # the answer to an AtRung event

A trial at a rung leaves its stack and waits; the others continue, and its slot goes to the next
trial. A trial that diverges ends; co-batched trials are not affected.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters import build
from adapters.base import Tensors
from adapters.stack import start_member
from orchestrator.backbones import Backbone
from orchestrator.data.splits import FinalData, SearchData
from orchestrator.engine.checkpoint import CheckpointStore
from orchestrator.engine.evaluation import Evaluation
from orchestrator.engine.frozen import FrozenBackbone, FrozenBackbones
from orchestrator.engine.group import EpochEnd, Group, WorkDone, benchmark_width
from orchestrator.engine.grouping import GroupKey, group_key
from orchestrator.engine.input import SplitCache
from orchestrator.engine.training import Training
from orchestrator.engine.width import WidthPlan
from orchestrator.spec import Status, Trial, TrialResult


@dataclass(frozen=True)
class AtRung:
    """A trial waits after `epoch` epochs with this validation accuracy, for `proceed` or `stop`."""

    key: str
    epoch: int
    value: float


@dataclass(frozen=True)
class Ended:
    """A trial has ended; `tensors` are those of a finished final trial after its last epoch.

    `logits` (N, classes) and `labels` (N,) are those of a finished replicate or final trial, in the
    order of its evaluation split; see `Evaluation.logits`.
    """

    result: TrialResult
    tensors: Tensors | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None


Event = AtRung | Ended


class Pool:
    """Trains trials of one backbone on one device.

    Args:
        backbone: frozen, fp32.
        device: where everything runs.
        checkpoints: None writes none.
        width: maximum trials in a stack; None finds it by a warm-up benchmark at a group's first
            trial.
        share: the part of the device's free memory that this pool may take.
        compiled: compile the blocks of full stacks, where a measurement finds that faster; with a
            given `width` without a measurement.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        checkpoints: CheckpointStore | None = None,
        *,
        width: int | None = None,
        share: float = 1.0,
        compiled: bool = False,
    ) -> None:
        self._device, self._checkpoints = device, checkpoints
        self._width, self._share, self._compiled = width, share, compiled
        self._frozen = FrozenBackbones(backbone, device)
        self._splits = SplitCache(device)
        self._groups: dict[GroupKey, Group] = {}
        self._group_of: dict[str, Group] = {}
        self._last_entered: Group | None = None
        self._work_before = WorkDone()
        """Done in groups that no longer exist."""
        self._trainings: dict[str, Training] = {}
        self._at_rung: set[str] = set()
        self._resumed_at_rung: list[Training] = []
        self._saved: dict[str, float] = {}
        """Time of each trial's last checkpoint."""

    def __len__(self) -> int:
        return len(self._trainings)

    def __contains__(self, key: str) -> bool:
        return key in self._trainings

    @property
    def running(self) -> int:
        """Trials that have a slot or wait for one; the others wait at a rung."""
        return len(self._trainings) - len(self._at_rung)

    @property
    def slots(self) -> int:
        """Slots of the group that a trial entered last; 1 before any did."""
        return 1 if self._last_entered is None else self._last_entered.width

    @property
    def work(self) -> WorkDone:
        """All work since the pool was created."""
        return sum((group.work for group in self._groups.values()), self._work_before)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups in order of their first trial; of `max_trials = 1` those with a live trial."""
        return tuple(self._groups.values())

    def add(self, trial: Trial, data: SearchData | FinalData, pauses: Sequence[int] = ()) -> None:
        """Add a trial, which trains from the next step on; it resumes from its checkpoint.

        Args:
            trial: one that reads test must be given `FinalData`, any other `SearchData`.
            data: of the trial's task.
            pauses: rungs, in completed epochs; ignored for trials that read test.
        """
        training = self._start(trial, data, frozenset(pauses))
        resumed = self._checkpoints is not None and self._checkpoints.restore(training)
        self._trainings[trial.key] = training
        self._saved[trial.key] = time.monotonic()
        if resumed and training.epoch in training.pauses:
            self._resumed_at_rung.append(training)
        else:
            self._enter(training)

    def epoch(self, key: str) -> int:
        """A trial's completed epochs."""
        return self._trainings[key].epoch

    def at_rung(self, key: str) -> AtRung | None:
        """The rung at which a trial waits, None if it runs."""
        return _rung(self._trainings[key]) if key in self._at_rung else None

    def proceed(self, key: str) -> None:
        """Continue a trial that waits at a rung."""
        self._at_rung.remove(key)
        self._enter(self._trainings[key], first=True)

    def stop(self, key: str) -> TrialResult:
        """End a trial at its rung; its record states the rung's evaluation."""
        self._at_rung.remove(key)
        return self._end(self._trainings[key], "stopped").result

    def advance(self) -> list[Event]:
        """Make one optimiser step of every group; return the events at epochs that it ended."""
        events: list[Event] = [self._wait(training) for training in self._resumed_at_rung]
        self._resumed_at_rung.clear()
        for group in [group for group in self._groups.values() if len(group)]:
            ends = group.step()
            if ends:
                events += self._after_epoch(group, ends)
        return events

    def _after_epoch(self, group: Group, ends: Sequence[EpochEnd]) -> list[Event]:
        finite = [end for end in ends if end.bad_step is None]
        due = [end.training for end in finite if end.training.evaluates()]
        evaluations = group.evaluate(due) if due else {}
        events = [self._settle(group, end, evaluations.get(end.training.key)) for end in ends]
        return [event for event in events if event is not None]

    def _settle(self, group: Group, end: EpochEnd, evaluation: Evaluation | None) -> Event | None:
        """Decide what follows a trial's epoch: its end, a rung, a checkpoint or nothing."""
        training = end.training
        if evaluation is not None:
            training.record_evaluation(evaluation)
        message = _divergence(end, evaluation)
        if message:
            group.leave(training)
            return self._end(training, "diverged", message)
        if training.done:
            group.leave(training)
            return self._end(training, "finished")
        if training.epoch in training.pauses:
            group.leave(training)
            self._save(training)
            return self._wait(training)
        if self._save_is_due(training):
            group.leave(training)
            self._save(training)
            group.enter(training, first=True)
        return None

    def _wait(self, training: Training) -> AtRung:
        self._at_rung.add(training.key)
        return _rung(training)

    def _end(self, training: Training, status: Status, message: str = "") -> Ended:
        self._forget(training)
        result = training.result(status, self._device, message)
        if status != "finished":
            return Ended(result)
        own, counted = training.member.tensors, training.counted
        tensors = {name: t.cpu() for name, t in own.items()} if training.final else None
        if counted is None or not training.keeps_logits:
            return Ended(result, tensors)
        return Ended(result, tensors, counted.logits, training.evaluation.labels.cpu())

    def _forget(self, training: Training) -> None:
        """Drop a trial and what only it needed: a group of its own, tokens, the splits of a
        final trial or replicate (test splits are the bulk of all images, folds are copies).
        """
        del self._trainings[training.key], self._saved[training.key]
        group = self._group_of.pop(training.key, None)
        if group is not None and group.key.only_trial:
            self._work_before += self._groups.pop(group.key).work
            self._last_entered = None if self._last_entered is group else self._last_entered
        in_use = [s for t in self._trainings.values() for s in (t.train, t.evaluation)]
        own = [training.train, training.evaluation]
        self._splits.release(own, in_use, drop=training.trial.stage != "search")

    def _start(
        self, trial: Trial, data: SearchData | FinalData, pauses: frozenset[int]
    ) -> Training:
        if isinstance(data, FinalData) != trial.reads_test:
            given = type(data).__name__
            raise ValueError(f"{trial.stage} trials under '{trial.protocol}' do not read {given}")
        member = start_member(
            build(trial.adapter, trial.params),
            self._frozen.sites,
            trial.seed,
            data.task.classes,
            trial.recipe.head_init,
            trial.recipe.drop_path,
        )
        pixels = self._splits.pixels
        if isinstance(data, FinalData):
            return Training(trial, pixels(*data.train), self._splits.test(data.test), member)
        return Training(trial, pixels(data.train), pixels(data.val), member, pauses)

    def _enter(self, training: Training, first: bool = False) -> None:
        if training.key not in self._group_of:
            self._group_of[training.key] = self._group(training)
        self._last_entered = self._group_of[training.key]
        self._last_entered.enter(training, first)

    def _group(self, training: Training) -> Group:
        trial = training.trial
        frozen = self._frozen.get(trial.precision, trial.recipe.normalisation)
        key = group_key(training, frozen)
        if key not in self._groups:
            plan = self._plan(key, frozen, training)
            self._groups[key] = Group(key, frozen, self._device, plan)
        return self._groups[key]

    def _plan(self, key: GroupKey, frozen: FrozenBackbone, training: Training) -> WidthPlan:
        if key.only_trial:
            return WidthPlan(1, (), "one trial at a time")
        if self._width is not None:
            return WidthPlan(self._width, (), "as asked for", self._compiled)
        return benchmark_width(key, frozen, self._device, training, self._share, self._compiled)

    def _save_is_due(self, training: Training) -> bool:
        if self._checkpoints is None:
            return False
        return time.monotonic() - self._saved[training.key] > self._checkpoints.interval

    def _save(self, training: Training) -> None:
        if self._checkpoints and self._checkpoints.save(training):
            self._saved[training.key] = time.monotonic()


def _rung(training: Training) -> AtRung:
    assert training.counted is not None  # every rung is evaluated
    return AtRung(training.key, training.epoch, training.counted.accuracy)


def _divergence(end: EpochEnd, evaluation: Evaluation | None) -> str:
    """Why the trial counts as diverged; empty if it does not."""
    if end.bad_step is not None:
        return f"diverged at step {end.bad_step}: its training loss is not finite"
    if evaluation is not None and not abs(evaluation.loss) < float("inf"):
        return f"diverged at step {end.training.step}: its evaluation loss is not finite"
    return ""
