"""Twenty steps of the published schedule against losses of the authors' own code.

The numbers below are theirs: the networks of NOAH's, FacT's and EFFT's repositories over the same
tiny ViT, images and starting tensors, torch's AdamW with the parameter groups of their scripts and
timm's scheduler stepped after each epoch; without dropout.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from adapters import EFFT2, NOAH, Adapter, FactTK, attach, attached
from orchestrator.engine.optimiser import StackedAdamW, learning_rate
from orchestrator.spec import Recipe
from tests.adapters.models import images, randomise, vit

RECIPE = Recipe(
    epochs=20, lr=0.005, weight_decay=0.1, warmup_epochs=4, schedule="timm_epoch", drop_path=0.0
)


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (
            EFFT2(rank=3, scale=1.7, cores="shared", dropout=0.0),
            [2.111847, 1.953375, 1.466533, 1.339834, 1.285597, 1.283352],
        ),
        (
            FactTK(rank=5, scale=1.7, tiles="published", dropout=0.0),
            [1.831901, 1.697515, 1.403928, 1.302123, 1.262642, 1.261069],
        ),
        (
            NOAH(prompts=(2, 0, 3), rank=(1, 2, 2), hidden=(4, 0, 1), dropout=0.0),
            [1.704624, 1.627951, 1.556333, 1.548137, 1.535992, 1.535406],
        ),
    ],
    ids=["efft2", "fact_tk", "noah"],
)
def test_twenty_steps(adapter: Adapter, expected: list[float]) -> None:
    """Losses before steps 1, 5, 10, 15 and 20, and after the last."""
    model = attach(vit(), adapter, num_classes=5, drop_path=0.0)
    randomise(model, 0.15)
    stack = attached(model)
    optimiser = StackedAdamW(dict(stack.named_parameters()), stack.undecayed)
    x, labels = images(8), torch.arange(8) % 5
    losses = []
    for epoch in range(RECIPE.epochs + 1):
        loss = F.cross_entropy(model.train()(x), labels)
        losses.append(loss.item())
        if epoch < RECIPE.epochs:
            loss.backward()
            optimiser.step([learning_rate(RECIPE, epoch)], [RECIPE.weight_decay])
    assert [losses[i] for i in (0, 4, 9, 14, 19, 20)] == pytest.approx(expected, rel=1e-4)
