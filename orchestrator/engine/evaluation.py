"""Evaluation: the same images through all trials that share a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.attach import attached
from orchestrator.engine.frozen import FrozenBackbone
from orchestrator.engine.input import AnySplit
from orchestrator.engine.memory import out_of_memory


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, accuracy in [0, 1] and one byte per image (1 = right) of one trial.

    `logits` (N, classes) fp16 on the CPU, each image's minus its largest, if they were asked for:
    the largest is 0 and stays the only one, as the numbers next to 0 are the closest ones.
    """

    loss: float
    accuracy: float
    correct: bytes
    logits: Tensor | None = None


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

    def evaluate(
        self, split: AnySplit, chosen: Sequence[int], kept: Mapping[int, int] = MappingProxyType({})
    ) -> list[Evaluation]:
        """One evaluation for each of the chosen indices of the stack; those in `kept`, index →
        number of classes, with their logits.
        """
        places = [place for place, index in enumerate(chosen) if index in kept]
        while (found := self._attempt(split, chosen, places)) is None:
            self.budget //= 2
        losses, right, logits = found
        own = {place: logits[i, :, : kept[chosen[place]]] for i, place in enumerate(places)}
        means = losses.mean(1).tolist()
        accuracies = [count / len(split) for count in right.sum(1).tolist()]
        rows = right.to(torch.uint8).cpu().numpy()
        pairs = zip(means, accuracies, strict=True)
        return [
            Evaluation(loss, accuracy, rows[place].tobytes(), own.get(place))
            for place, (loss, accuracy) in enumerate(pairs)
        ]

    @torch.no_grad()
    def _attempt(
        self, split: AnySplit, chosen: Sequence[int], kept: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Losses and correctness, both (K, N), and the logits of the `kept` ones of these K on the
        CPU (k, N, classes); None if memory ran out and less may fit.
        """
        stack = attached(self.model.eval())
        stack.chosen = list(chosen)
        size = max(1, self.budget // len(chosen))
        try:
            labels = iter(torch.split(split.labels, size))
            none = torch.empty(0, 0, 0)  # of an evaluation that keeps nothing: no copy to wait for
            found = [
                (*_scores(logits, next(labels)), _centred(logits[kept]) if kept else none)
                for logits in self._logits(split, size)
            ]
            losses, right, logits = (torch.cat(some, dim=1) for some in zip(*found, strict=True))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
        else:
            return losses, right, logits
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


def _centred(logits: Tensor) -> Tensor:
    """Logits (k, n, classes) minus each image's largest, in fp16 on the CPU."""
    least = torch.finfo(torch.float16).min
    return (logits - logits.amax(-1, keepdim=True)).clamp(min=least).half().cpu()


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and correctness of each image, (K, n), from logits (K, n, classes)."""
    targets = labels.expand(len(logits), -1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets), logits.argmax(-1) == targets
