"""The pool: owns a device and trains many trials at once on one frozen backbone.

    pool.add(trial, data, pauses)          # any time
    for event in pool.advance(): ...       # one step of every group
    pool.proceed(key) / pool.stop(key)     # the answer to an AtRung event

A trial at a rung leaves its stack and waits; the others go on, and its slot goes to the next. A
trial that diverges ends alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from adapters import build
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.stack import start_member
from orchestrator.backbones import Backbone, copy_of
from orchestrator.data.splits import EncodedSplit, FinalData, SearchData, Split
from orchestrator.engine import attention
from orchestrator.engine.feed import DeviceSplit, Normaliser, StreamedSplit
from orchestrator.engine.frozen import Frozen
from orchestrator.engine.group import EpochEnd, Group, Work
from orchestrator.engine.grouping import GroupKey, group_key
from orchestrator.engine.keeping import Keeping
from orchestrator.engine.rehearsal import rehearsed
from orchestrator.engine.training import Evaluation, Training, own_tensors
from orchestrator.engine.width import WidthPlan
from orchestrator.errors import BackendError
from orchestrator.spec import Status, Trial, TrialResult

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class AtRung:
    """A trial waits after `epoch` epochs with this validation accuracy, for `proceed` or `stop`."""

    key: str
    epoch: int
    value: float


@dataclass(frozen=True)
class Ended:
    """A trial is over; `tensors` are those after the last epoch of a finished final trial."""

    result: TrialResult
    tensors: Tensors | None


Event = AtRung | Ended


class Pool:
    """Trains trials of one backbone on one device.

    Args:
        backbone: frozen, fp32.
        device: where everything runs.
        keeping: checkpoints; None keeps none.
        width: trials in a stack, at most; None measures what pays when its first trial comes.
        share: of the device's free memory, the part that is this pool's.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        keeping: Keeping | None = None,
        *,
        width: int | None = None,
        share: float = 1.0,
    ) -> None:
        self._backbone, self._device, self._keeping = backbone, device, keeping
        self._width, self._share = width, share
        self._sites = find_sites(backbone.model)
        self._models: dict[str, nn.Module] = {}
        self._frozen: dict[str, Frozen] = {}
        self._splits: dict[tuple[str, ...], DeviceSplit] = {}
        self._streams: dict[str, StreamedSplit] = {}
        self._groups: dict[GroupKey, Group] = {}
        self._homes: dict[str, Group] = {}
        self._latest: Group | None = None
        self._retired = Work()
        self._trainings: dict[str, Training] = {}
        self._waiting: set[str] = set()
        self._saved: dict[str, float] = {}
        self._resumed_at_rung: list[Training] = []

    def __len__(self) -> int:
        return len(self._trainings)

    def __contains__(self, key: str) -> bool:
        return key in self._trainings

    @property
    def running(self) -> int:
        """Trials that have a slot or wait for one (the others wait at a rung)."""
        return len(self._trainings) - len(self._waiting)

    @property
    def slots(self) -> int:
        """Trials that can run at once, of the group that a trial last entered; 1 before that."""
        return 1 if self._latest is None else self._latest.width

    @property
    def work(self) -> Work:
        """All that was done since the pool began."""
        return sum((group.work for group in self._groups.values()), self._retired)

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups that had a trial, in the order of their first; none that took but one."""
        return tuple(self._groups.values())

    def add(self, trial: Trial, data: SearchData | FinalData, pauses: Sequence[int] = ()) -> None:
        """Lets a trial join from the next step on, at its checkpoint if it has one.

        Trials that read test are given `FinalData`, and never pause; others `SearchData`.
        """
        training = self._start(trial, data, frozenset(pauses))
        resumed = self._keeping is not None and self._keeping.restore(training)
        self._trainings[trial.key] = training
        self._saved[trial.key] = time.monotonic()
        if resumed and training.epoch in training.pauses:
            self._resumed_at_rung.append(training)
        else:
            self._enter(training)

    def epoch(self, key: str) -> int:
        """The epochs that a trial has behind it."""
        return self._trainings[key].epoch

    def at_rung(self, key: str) -> AtRung | None:
        """The rung at which a trial waits, None if it runs."""
        if key not in self._waiting:
            return None
        return _rung(self._trainings[key])

    def proceed(self, key: str) -> None:
        """Lets a trial at a rung go on."""
        self._waiting.remove(key)
        self._enter(self._trainings[key], first=True)

    def stop(self, key: str) -> TrialResult:
        """Ends a trial at its rung; its record is the rung's."""
        self._waiting.remove(key)
        return self._end(self._trainings[key], "stopped").result

    def advance(self) -> list[Event]:
        """One optimiser step of every group; what happened at the epochs that it ended."""
        events: list[Event] = [self._wait(training) for training in self._resumed_at_rung]
        self._resumed_at_rung.clear()
        for group in [group for group in self._groups.values() if len(group)]:
            ends = group.step()
            if ends:
                events += self._after_epoch(group, ends)
        return events

    def _after_epoch(self, group: Group, ends: Sequence[EpochEnd]) -> list[Event]:
        alive = [end for end in ends if end.bad_step is None]
        due = [end.training for end in alive if end.training.evaluates()]
        evaluations = group.evaluate(due) if due else {}
        events = []
        for end in ends:
            event = self._settle(group, end, evaluations.get(end.training.key))
            if event is not None:
                events.append(event)
        return events

    def _wait(self, training: Training) -> AtRung:
        self._waiting.add(training.key)
        return _rung(training)

    def _settle(self, group: Group, end: EpochEnd, evaluation: Evaluation | None) -> Event | None:
        training = end.training
        if evaluation is not None:
            training.note_evaluation(evaluation)
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
        if self._due(training):
            group.leave(training)
            self._save(training)
            group.enter(training, first=True)
        return None

    def _end(self, training: Training, status: Status, message: str = "") -> Ended:
        self._forget(training)
        result = training.result(status, self._device, message)
        keep = training.final and status == "finished"
        return Ended(result, own_tensors(training) if keep else None)

    def _forget(self, training: Training) -> None:
        """Drops a trial, and what no other one needs of its splits: what was kept of their tokens;
        all of a final trial's, test splits being the bulk of all images.
        """
        del self._trainings[training.key], self._saved[training.key]
        home = self._homes.pop(training.key, None)
        if home is not None and home.key.alone:
            self._retired += self._groups.pop(home.key).work
            self._latest = None if self._latest is home else self._latest
        used = {id(s) for t in self._trainings.values() for s in (t.train, t.evaluation)}
        for split in (training.train, training.evaluation):
            if id(split) not in used:
                split.prefixes = {place: p for place, p in split.prefixes.items() if p.dim() == 2}
        if training.final:
            gone = {id(training.train), id(training.evaluation)} - used
            self._splits = {name: s for name, s in self._splits.items() if id(s) not in gone}
            self._streams = {name: s for name, s in self._streams.items() if id(s) not in gone}

    def _start(
        self, trial: Trial, data: SearchData | FinalData, pauses: frozenset[int]
    ) -> Training:
        if isinstance(data, FinalData) != trial.reads_test:
            given = type(data).__name__
            raise ValueError(f"{trial.stage} trials under '{trial.protocol}' do not read {given}")
        adapter = build(trial.adapter, trial.params)
        member = start_member(
            adapter,
            self._sites,
            trial.seed,
            data.task.classes,
            trial.recipe.head_init,
            trial.recipe.drop_path,
        )
        if isinstance(data, FinalData):
            train, test = self._split(*data.train), self._evaluated(data.test)
            return Training(trial, train, test, member)
        return Training(trial, self._split(data.train), self._split(data.val), member, pauses)

    def _split(self, *splits: Split) -> DeviceSplit:
        """Splits one after the other, held once for all trials."""
        name = tuple(split.fingerprint for split in splits)
        if name not in self._splits:
            self._splits[name] = DeviceSplit.of(splits, self._device)
        return self._splits[name]

    def _evaluated(self, split: Split | EncodedSplit) -> DeviceSplit | StreamedSplit:
        if isinstance(split, Split):
            return self._split(split)
        if split.fingerprint not in self._streams:
            self._streams[split.fingerprint] = StreamedSplit.of(split, self._device)
        return self._streams[split.fingerprint]

    def _enter(self, training: Training, first: bool = False) -> None:
        if training.key not in self._homes:
            self._homes[training.key] = self._group(training)
        self._latest = self._homes[training.key]
        self._latest.enter(training, first)

    def _group(self, training: Training) -> Group:
        frozen = self._frozen_for(training)
        key = group_key(training, frozen)
        if key not in self._groups:
            plan = self._plan(key, frozen, training)
            self._groups[key] = Group(key, frozen, self._device, plan)
        return self._groups[key]

    def _plan(self, key: GroupKey, frozen: Frozen, training: Training) -> WidthPlan:
        """How many trials to train at once: as asked for, or as measured now."""
        if key.alone:
            return WidthPlan(1, (), "one trial at a time")
        if self._width is not None:
            return WidthPlan(self._width, (), "as asked for")
        return rehearsed(key, frozen, self._device, training, self._share)

    def _frozen_for(self, training: Training) -> Frozen:
        """The frozen backbone in the trial's precision and normalisation, made once."""
        recipe = training.trial.recipe
        name = f"{recipe.precision} {recipe.normalisation}"
        if name not in self._frozen:
            dtype, side = _DTYPES[recipe.precision], self._backbone.image_size
            statistics = self._backbone.normalisation(recipe.normalisation)
            normalise = Normaliser(statistics, side, self._device, dtype)
            model = self._model_in(recipe.precision)
            self._frozen[name] = Frozen(model, normalise, side, name)
        return self._frozen[name]

    def _model_in(self, precision: str) -> nn.Module:
        """The frozen weights on the device, once per precision."""
        if precision not in self._models:
            _check_precision(precision, self._device)
            dtype = _DTYPES[precision]
            model = copy_of(self._backbone.model, self._device, dtype)
            attention.suit(model, self._device)
            self._models[precision] = model
        return self._models[precision]

    def _due(self, training: Training) -> bool:
        if self._keeping is None:
            return False
        return time.monotonic() - self._saved[training.key] > self._keeping.every

    def _save(self, training: Training) -> None:
        if self._keeping and self._keeping.save(training):
            self._saved[training.key] = time.monotonic()


def _check_precision(precision: str, device: torch.device) -> None:
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name(device)
        raise BackendError(f"{name} ({device}) has no bf16; use --precision fp32.")


def _rung(training: Training) -> AtRung:
    assert training.counted is not None  # every epoch of a trial with rungs is evaluated
    return AtRung(training.key, training.epoch, training.counted.accuracy)


def _divergence(end: EpochEnd, evaluation: Evaluation | None) -> str:
    """Why the trial counts as diverged; empty if it does not."""
    if end.bad_step is not None:
        return f"diverged at step {end.bad_step}: its training loss is not finite"
    if evaluation is not None and not abs(evaluation.loss) < float("inf"):
        return f"diverged at step {end.training.step}: its evaluation loss is not finite"
    return ""
