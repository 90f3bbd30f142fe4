"""Evaluation: the same images through all trials that share a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attached
from orchestrator.engine.frozen import FrozenBackbone
from orchestrator.engine.input import AnySplit
from orchestrator.engine.memory import out_of_memory


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, accuracy in [0, 1] and one byte per image (1 = right) of one trial."""

    loss: float
    accuracy: float
    correct: bytes


@dataclass
class Evaluator:
    """Evaluates trials of one stack.

    Args:
        frozen: the backbone, which computes the common prefix once for all trials.
        model: a copy of it with the stack attached.
        cut: where the trials begin to differ.
        reads: blocks before it whose inputs they read.
        budget: images times trials in one forward pass; halved when memory runs out.
    """

    frozen: FrozenBackbone
    model: nn.Module
    cut: int | None
    reads: Sequence[int]
    budget: int

    def evaluate(self, split: AnySplit, chosen: Sequence[int]) -> list[Evaluation]:
        """One evaluation for each of the chosen indices of the stack."""
        while (found := self._attempt(split, chosen)) is None:
            self.budget //= 2
        losses, right = found
        means = losses.mean(1).tolist()
        accuracies = [count / len(split) for count in right.sum(1).tolist()]
        rows = right.to(torch.uint8).cpu().numpy()
        pairs = zip(means, accuracies, strict=True)
        return [Evaluation(loss, acc, rows[i].tobytes()) for i, (loss, acc) in enumerate(pairs)]

    @torch.no_grad()
    def _attempt(self, split: AnySplit, chosen: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Losses and correctness, both (K, N); None if memory ran out and less may fit."""
        stack = attached(self.model.eval())
        stack.chosen = list(chosen)
        size = max(1, self.budget // len(chosen))
        try:
            labels = iter(torch.split(split.labels, size))
            pairs = [_scores(logits, next(labels)) for logits in self._logits(split, size)]
            losses, right = (torch.cat(some, dim=1) for some in zip(*pairs, strict=True))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
        else:
            return losses, right
        finally:
            stack.chosen = None
            stack.release()
        return None

    def _logits(self, split: AnySplit, size: int) -> Iterator[Tensor]:
        """Logits (K, n, classes), chunk by chunk."""
        trials = attached(self.model).trials
        for begun in self.frozen.chunks(split, self.cut, size, self.reads):
            repeated = [one.repeat(trials, *[1] * (one.dim() - 1)) for one in begun]
            logits = self.frozen.logits(self.model, repeated, self.cut, self.reads)
            yield logits.view(trials, -1, logits.shape[-1])


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and correctness of each image, (K, n), from logits (K, n, classes)."""
    targets = labels.expand(len(logits), -1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets), logits.argmax(-1) == targets
