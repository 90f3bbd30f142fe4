"""Evaluation: the same images through all trials that share a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attached
from adapters.partial_forward import finish
from orchestrator.engine.feed import DeviceSplit, StreamedSplit
from orchestrator.engine.frozen import Frozen
from orchestrator.engine.training import Evaluation
from orchestrator.engine.width import out_of_memory


@dataclass
class Evaluator:
    """Evaluates trials of one stack.

    Args:
        frozen: the backbone that computes what the trials have in common, once for all.
        model: the same with the stack attached.
        cut: where the trials begin to differ.
        budget: images times trials in one forward pass; halved where memory runs out.
    """

    frozen: Frozen
    model: nn.Module
    cut: int | None
    budget: int

    def evaluate(
        self, split: DeviceSplit | StreamedSplit, chosen: Sequence[int]
    ) -> list[Evaluation]:
        """One evaluation for each of the chosen places in the stack."""
        while (found := self._tried(split, chosen)) is None:
            self.budget //= 2
        losses, right = found
        means = losses.mean(1).tolist()
        shares = [count / len(split) for count in right.sum(1).tolist()]
        rows = right.to(torch.uint8).cpu().numpy()
        pairs = zip(means, shares, strict=True)
        return [Evaluation(loss, share, rows[i].tobytes()) for i, (loss, share) in enumerate(pairs)]

    @torch.no_grad()
    def _tried(
        self, split: DeviceSplit | StreamedSplit, chosen: Sequence[int]
    ) -> tuple[Tensor, Tensor] | None:
        """Losses and what was right, both (K, N); None if memory ran out and less may fit."""
        stack = attached(self.model.eval())
        stack.chosen = list(chosen)
        size = max(1, self.budget // len(chosen))
        try:
            labels = iter(torch.split(split.labels, size))
            pairs = [_judged(logits, next(labels)) for logits in self._logits(split, size)]
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

    def _logits(self, split: DeviceSplit | StreamedSplit, size: int) -> Iterator[Tensor]:
        """Chunk by chunk: (K, n, classes)."""
        stack = attached(self.model)
        for begun in self.frozen.chunks(split, self.cut, size):
            repeated = begun.repeat(stack.trials, *[1] * (begun.dim() - 1))
            if self.cut is None:
                logits: Tensor = self.model(repeated)
            else:
                stack.prepare(len(repeated), self.frozen.dtype)
                whole = self.cut == self.frozen.features
                logits = stack.logits(repeated) if whole else finish(self.model, repeated, self.cut)
            yield logits.view(stack.trials, -1, logits.shape[-1])


def _judged(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every image and whether it is right, (K, n), for logits (K, n, classes)."""
    targets = labels.expand(len(logits), -1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets), logits.argmax(-1) == targets
