"""Trials that share a stack: one frozen backbone, one adapter family, one batch size.

Trials enter and leave between steps while the others keep running; each trial's epoch is its own.
Trials without a slot wait for the next one that becomes free.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attach_members, attached
from adapters.base import Kind
from adapters.trial_axis import own_part
from orchestrator.backbones import shared_copy
from orchestrator.engine import memory
from orchestrator.engine.compiled import (
    ERRORS,
    CompilerError,
    compile_blocks,
    reason,
    running,
)
from orchestrator.engine.evaluation import Evaluation, Evaluator
from orchestrator.engine.frozen import FrozenBackbone
from orchestrator.engine.grouping import GroupKey
from orchestrator.engine.input import augmented_view, take
from orchestrator.engine.optimiser import STACKED
from orchestrator.engine.training import Training
from orchestrator.engine.views import evaluation_view
from orchestrator.engine.width import (
    MAX_WIDTH,
    WidthMeasurement,
    WidthPlan,
    measure_step,
    plan_width,
)
from orchestrator.errors import BackendError


@dataclass(frozen=True)
class EpochEnd:
    """A trial completed an epoch: its mean loss, and the step of its first non-finite loss."""

    training: Training
    loss: float
    bad_step: int | None


@dataclass
class WorkDone:
    """Images trained and evaluated on, floating-point operations, steps, width halvings, and
    seconds in which evaluations waited for images to be decoded.
    """

    trained: int = 0
    evaluated: int = 0
    flops: float = 0.0
    steps: int = 0
    halved: int = 0
    waited: float = 0.0

    def __add__(self, other: WorkDone) -> WorkDone:
        return WorkDone(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class Group:
    """Trials on one stack, stepped together: `trainings` have a slot, `waiting` have none yet.

    Args:
        key: what the trials have in common.
        frozen: the backbone.
        device: where it is.
        plan: number of slots and why. `width` is the number now: less after memory ran out.
            `uncompiled` says why blocks that it has compiled no longer are.
    """

    def __init__(
        self, key: GroupKey, frozen: FrozenBackbone, device: torch.device, plan: WidthPlan
    ) -> None:
        self.key, self.frozen, self.device, self.plan = key, frozen, device, plan
        self.uncompiled = ""
        self.width = plan.width
        self.trainings: list[Training] = []
        self.waiting: deque[Training] = deque()
        self.work = WorkDone()
        self._model: nn.Module | None = None
        self._stacked: Stacked | None = None

    def __len__(self) -> int:
        return len(self.trainings) + len(self.waiting)

    def enter(self, training: Training, first: bool = False) -> None:
        """Queue a trial, which trains as soon as a slot is free; `first`: before all others."""
        if first:
            self.waiting.appendleft(training)
        else:
            self.waiting.append(training)

    def leave(self, training: Training) -> None:
        """Remove a trial; its tensors and moments are back in `training`."""
        if training in self.waiting:
            self.waiting.remove(training)
            return
        self._unstack()
        self.trainings.remove(training)

    def step(self) -> list[EpochEnd]:
        """Make one optimiser step for each trial with a slot; return those that ended an epoch.

        If memory runs out, half of the trials go back to waiting and the step is repeated: an
        incomplete step changes nothing.
        """
        began = time.perf_counter()
        self._admit()
        while (missing := self._attempt()) is not None:
            if missing == "memory":
                self._halve()
        self._charge(self.trainings, began)
        counted = self._restack().stack.counted
        images = sum(counted) if counted else len(self.trainings) * self.key.batch
        each = self.frozen.flops.training(self.key.prefix, self.key.changed)
        self.work += WorkDone(images, 0, images * each, 1)
        return [self._close_epoch(t) for t in self.trainings if t.batch == t.batches]

    def evaluate(self, trainings: Sequence[Training]) -> dict[str, Evaluation]:
        """Key → evaluation on each trial's own split, batched over trials that share it."""
        began = time.perf_counter()
        model, cut = self._restack().model, self.key.changed
        budget = max(len(self.trainings) * self.key.batch, 256)
        evaluator = Evaluator(self.frozen, model, cut, self.key.reads, budget)
        results: dict[str, Evaluation] = {}
        for split in {id(t.evaluation): t.evaluation for t in trainings}.values():
            sharing = [t for t in trainings if t.evaluation is split]
            before = split.waited
            with self._blocks(False):
                chosen = [self.trainings.index(training) for training in sharing]
                kept = {
                    i: t.classes for i, t in zip(chosen, sharing, strict=True) if t.keeps_logits
                }
                found = evaluator.evaluate(split, chosen, kept)
            results |= {t.key: one for t, one in zip(sharing, found, strict=True)}
            images = len(split) * len(sharing)
            flops, waited = images * self.frozen.flops.forward(cut), split.waited - before
            self.work += WorkDone(evaluated=images, flops=flops, waited=waited)
        self._charge(trainings, began)
        return results

    def _admit(self) -> None:
        """Give free slots to waiting trials."""
        while self.waiting and len(self.trainings) < self.width:
            self._unstack()
            self.trainings.append(self.waiting.popleft())

    def _attempt(self) -> str | None:
        """Make a step; `memory` or `compiler` if that failed, and then nothing has changed."""
        states: dict[str, Tensor] = {}
        try:
            stacked = self._restack()
            states = {
                name: state.clone() for name, state in stacked.stack.stacked(Kind.STATE).items()
            }
            stacked.stack.steps = [training.step for training in self.trainings]
            if self.key.last_batch == "keep":
                stacked.stack.counted = [training.images for training in self.trainings]
            with self._blocks(len(self.trainings) == self.width):
                loss = self._losses(stacked)
                torch.autograd.backward(loss.sum())
            stacked.update(loss.detach())
        except (RuntimeError, MemoryError, *ERRORS) as error:
            if memory.out_of_memory(error):
                missing = "memory"
            elif self._compiles and isinstance(error, ERRORS):
                missing, self.uncompiled = "compiler", reason(error)
            else:
                raise
        else:
            return None
        # Outside `except`: the exception keeps its frames, and they the tensors of the failed step.
        self._roll_back(states)
        return missing

    @property
    def _compiles(self) -> bool:
        return self.plan.compiled and not self.uncompiled

    def _blocks(self, full: bool) -> AbstractContextManager[object]:
        """Compiled blocks run in full stacks only, whose shape comes back."""
        return running(full and self._compiles) if self.plan.compiled else nullcontext()

    def _losses(self, stacked: Stacked) -> Tensor:
        """Mean cross-entropy per trial (K,)."""
        if not stacked.model.training:  # `train` visits all modules
            stacked.model.train()
        begun, labels = self._batch(stacked)
        logits = self.frozen.logits(stacked.model, begun, self.key.prefix, self.key.reads)
        losses = F.cross_entropy(logits, labels, reduction="none").view(len(self.trainings), -1)
        if self.key.last_batch == "drop":
            return losses.mean(1)
        assert stacked.stack.context is not None  # of the pass that gave the logits
        return (losses * stacked.stack.context.image_weights(self.key.batch)).sum(1)

    def _batch(self, stacked: Stacked) -> tuple[list[Tensor], Tensor]:
        """What all trials' images have begun with (K·B, …) at the prefix's cut, labels (K·B,)."""
        cut = self.key.prefix
        splits = [training.train for training in self.trainings]
        indices = [training.indices() for training in self.trainings]
        if cut is not None:
            pairs = list(zip(splits, indices, strict=True))
            kept = [
                [tokens[index] for tokens in self.frozen.prefix(split, cut, self.key.reads)]
                for split, index in pairs
            ]
            begun = [torch.cat(tokens) for tokens in zip(*kept, strict=True)]
            return begun, torch.cat([split.labels[index] for split, index in pairs])
        images, labels, sizes = take(splits, indices)
        view = evaluation_view(self.key.view, sizes)
        if self.key.augment != "none":
            drawn = augmented_view(sizes, stacked.seeds, stacked.optimiser.steps)
            view = drawn if self.key.augment == "crop_flip" else view._replace(flips=drawn.flips)
        return [self.frozen.inputs(images, view)], labels

    def _roll_back(self, states: dict[str, Tensor]) -> None:
        """Restore running statistics, drop gradients and the failed graph."""
        if self._stacked is None:
            return
        stack = self._stacked.stack
        stack.release()
        for parameter in stack.parameters():
            parameter.grad = None
        current = stack.stacked(Kind.STATE)
        for name, state in states.items():
            current[name].copy_(state)

    def _halve(self) -> None:
        """Halve the width; the younger half of the trials go back to waiting."""
        if len(self.trainings) == 1:
            raise BackendError(
                f"the memory of {self.device} does not hold one trial of {self.key.label()}; use a "
                "smaller batch (--set batch=N), --precision bf16 or a device with more memory."
            )
        self._unstack()
        self.width = len(self.trainings) // 2
        self.waiting.extendleft(reversed(self.trainings[self.width :]))
        del self.trainings[self.width :]
        self.work += WorkDone(halved=1)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _close_epoch(self, training: Training) -> EpochEnd:
        assert self._stacked is not None
        loss, bad = self._stacked.epoch_end(training)
        training.close_epoch(loss / training.batches)
        return EpochEnd(training, loss / training.batches, bad)

    def _charge(self, trainings: Sequence[Training], began: float) -> None:
        """Divide the time since `began` equally among trials."""
        share = (time.perf_counter() - began) / len(trainings)
        for training in trainings:
            training.seconds += share

    def _restack(self) -> Stacked:
        """Put the trials that have a slot on the trial axis, unless they are there."""
        if self._model is None:
            members = [training.member for training in self.trainings]
            self._model = attach_members(shared_copy(self.frozen.model), members)
            if self._compiles:
                compile_blocks(self._model, self.frozen.sites, self.width)
        if self._stacked is None:
            self._stacked = Stacked(self._model, self.trainings, self.device)
        return self._stacked

    def _unstack(self) -> None:
        """Take every trial's tensors, moments and running loss off the trial axis."""
        if self._stacked is not None:
            self._stacked.take_off()
            self._stacked = None


class Stacked:
    """The trials that are on the trial axis, from one change of membership to the next.

    Creating it puts them there, `take_off` ends it. On the device: `seeds` (K,) int64, `loss_sum`
    (K,) of the current epochs, and `bad_step` (K,) of the first non-finite loss, -1 for none.
    """

    def __init__(
        self, model: nn.Module, trainings: Sequence[Training], device: torch.device
    ) -> None:
        self.model, self.stack, self._trainings = model, attached(model), tuple(trainings)
        self.stack.rebuild([training.member for training in trainings], device)
        optimiser = STACKED[trainings[0].trial.recipe.optimiser]
        self.optimiser = optimiser(dict(self.stack.named_parameters()), self.stack.undecayed)
        for index, training in enumerate(trainings):
            moments = {name.replace(".", "/"): pair for name, pair in training.moments.items()}
            self.optimiser.restore(index, training.step, moments)
        self.loss_sum = torch.tensor([float(t.loss_sum) for t in trainings], device=device)
        self.bad_step = torch.tensor([t.bad_step for t in trainings], device=device)
        self.seeds = torch.tensor([t.trial.seed for t in trainings], device=device)

    def update(self, loss: Tensor) -> None:
        """Make one optimiser step from the gradients of losses (K,); atomic."""
        recipes = [training.trial.recipe for training in self._trainings]
        rates = [training.rate for training in self._trainings]
        new = ~torch.isfinite(loss) & (self.bad_step < 0)
        bad_step = torch.where(new, self.optimiser.steps + 1, self.bad_step)
        self.optimiser.step(rates, [r.weight_decay for r in recipes], [r.clip for r in recipes])
        self.bad_step = bad_step
        self.loss_sum += loss
        for training in self._trainings:
            training.advance()

    def epoch_end(self, training: Training) -> tuple[float, int | None]:
        """A trial's summed loss and the step of its first non-finite one; resets both."""
        index = self._trainings.index(training)
        loss, bad = self.loss_sum[index].item(), int(self.bad_step[index].item())
        self.loss_sum[index] = 0
        self.bad_step[index] = -1
        return loss, bad if bad >= 0 else None

    def take_off(self) -> None:
        """Write every trial's own part back to its `Training`."""
        moments = self.optimiser.moments()
        sums, bad = self.loss_sum.tolist(), self.bad_step.tolist()
        for index, training in enumerate(self._trainings):
            training.member = training.member.with_tensors(self.stack.tensors_of(index))
            training.moments = {}
            for name, shape in self.stack.shapes[index].items():
                if self.stack.declared[name].kind is not Kind.STATE:
                    training.moments[name] = tuple(
                        own_part(moment, index, shape) for moment in moments[name.replace(".", "/")]
                    )
            training.loss_sum, training.bad_step = sums[index], bad[index]


def benchmark_width(
    key: GroupKey,
    frozen: FrozenBackbone,
    device: torch.device,
    training: Training,
    share: float,
    compiling: bool = False,
) -> WidthPlan:
    """Train 1, 2, 4, … copies of a trial for a few steps each and choose a width.

    `share` is the part of the free memory that may be taken. With `compiling` the chosen width is
    measured with compiled blocks too, which are used if that is faster; what they are compiled to
    is kept for the group. The trial itself is not changed.
    """

    def measure(width: int, compiled: bool = False) -> WidthMeasurement:
        group = Group(key, frozen, device, WidthPlan(width, (), "warm-up benchmark", compiled))
        for _ in range(width):
            group.enter(training.fresh_copy())
        if compiled:
            group.step()  # compiles
        found = measure_step(group.step, width, device)
        if group.work.halved:
            raise torch.OutOfMemoryError(f"{width} trials at once")
        if group.uncompiled:
            raise CompilerError(group.uncompiled)
        return found

    most = MAX_WIDTH.get(device.type, MAX_WIDTH["cpu"])
    plan = plan_width(measure, int(share * memory.free(device)), most)
    return _with_compiled(plan, measure) if compiling else plan


def _with_compiled(plan: WidthPlan, measure: Callable[[int, bool], WidthMeasurement]) -> WidthPlan:
    """The plan, saying what compiled blocks bring, with them if they are faster."""
    plain = next(step.seconds for step in plan.measured if step.width == plan.width)
    try:
        gain = plain / measure(plan.width, True).seconds
    except (CompilerError, MemoryError, RuntimeError) as error:
        if not isinstance(error, CompilerError) and not memory.out_of_memory(error):
            raise
        return replace(plan, bound=f"{plan.bound}; blocks not compiled: {error}")
    said = f"{plan.bound}; compiled blocks {gain:.2f} times as fast"
    return replace(plan, bound=said, compiled=gain > 1)
