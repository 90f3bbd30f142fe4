"""`tuned`: one trial per process as a good engineer would write it.

The decoded images lie on the device as uint8, are gathered and normalised there; frozen weights in
bf16 on a GPU, adapter and optimiser in fp32; one fused AdamW; nothing waits for the device but the
validation accuracy at an epoch's end, which any tuner needs (200 images, one pass, against 800
trained on). Compiled as one graph where the calibration finds that a whole trial gets faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import attached
from arms.work import Log, Work, set_rate
from orchestrator.data.splits import Split


def run(work: Work, trials: list[int], options: dict[str, Any], log: Log) -> None:
    """Options: `compiled`."""
    torch.set_float32_matmul_precision("high")
    for number in trials:
        _train(work, number, bool(options["compiled"]), log)


def _train(work: Work, number: int, compiled: bool, log: Log) -> None:
    trial = work.trial(number)
    dtype = torch.bfloat16 if work.device == "cuda" else torch.float32
    model = work.model(trial, dtype)
    images, labels = _on_device(work, work.data.train)
    val_images, val_labels = _on_device(work, work.data.val)
    normalise = _Normalise(work, dtype)
    forward = _Forward(model, dtype, compiled)
    optimiser = work.optimiser(model, trial, fused=True)
    used = work.steps * trial.recipe.batch
    found = 0.0
    for epoch in range(trial.recipe.epochs):
        set_rate(optimiser, trial, epoch)
        model.train()
        order = work.order(trial, epoch).to(work.device)  # one copy of 6 kB an epoch
        for index in order[:used].split(trial.recipe.batch):
            loss = F.cross_entropy(forward(normalise(images[index])), labels[index])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            log.stepped()
        model.eval()
        with torch.no_grad():
            right = forward(normalise(val_images)).argmax(1) == val_labels
        found = float(right.float().mean())
        log.epochs()
    log.trial(number, found)


class _Forward:
    """Images → logits. Compiled, the adapter's masks are drawn before the one graph begins."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
        self._model, self._dtype, self._compiled = model, dtype, compiled
        self._graph = torch.compile(model) if compiled else model
        if compiled:  # `attach` prepares by a hook, which would break the graph in two
            for hook in attached(model).undo.hooks:
                hook.remove()

    def __call__(self, images: Tensor) -> Tensor:
        if self._compiled:
            attached(self._model).prepare(len(images), self._dtype)
        logits: Tensor = (self._graph if self._model.training else self._model)(images)
        return logits


class _Normalise:
    """uint8 (B, S, S, 3) → the backbone's input (B, 3, S, S)."""

    def __init__(self, work: Work, dtype: torch.dtype) -> None:
        mean, std = (torch.tensor(v, device=work.device).view(1, 3, 1, 1) for v in work.statistics)
        self._scale, self._shift, self._dtype = 1 / (255 * std), -mean / std, dtype

    def __call__(self, images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2) * self._scale + self._shift).to(self._dtype)


def _on_device(work: Work, split: Split) -> tuple[Tensor, Tensor]:
    images, labels = torch.tensor(split.images), torch.tensor(split.labels)
    return images.to(work.device), labels.to(work.device)
