from __future__ import annotations

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from orchestrator.engine.schedule import learning_rate
from orchestrator.spec import Recipe

PUBLISHED = Recipe()  # 100 epochs, 10 of warm-up from 1e-6, lr 1e-3, to 1e-5


def rates(recipe: Recipe) -> list[float]:
    return [learning_rate(recipe, epoch) for epoch in range(recipe.epochs)]


def test_warm_up_then_cosine() -> None:
    found = rates(PUBLISHED)
    assert found[0] == 1e-6
    assert found[5] == pytest.approx(1e-6 + (1e-3 - 1e-6) / 2)
    assert found[10] == max(found) == 1e-3
    assert found[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert 1e-5 < found[99] < 1.1e-5
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_without_warm_up() -> None:
    found = rates(Recipe(epochs=4, warmup_epochs=0, min_lr=0.0))
    assert found == pytest.approx([1e-3, 0.85355339e-3, 0.5e-3, 0.14644661e-3])
    assert rates(Recipe(epochs=1, warmup_epochs=0)) == [1e-3]


def test_timm_epoch_has_the_published_figures() -> None:
    found = rates(PUBLISHED.with_values({"schedule": "timm_epoch"}))
    assert found[:2] == [1e-6, 1e-6]
    assert max(found) == pytest.approx(9.76e-4, rel=1e-3)


@pytest.mark.parametrize(("epochs", "warmup", "lr"), [(100, 10, 1e-3), (30, 0, 0.1), (12, 5, 1e-4)])
def test_timm_epoch_is_timms_scheduler_stepped_after_each_epoch(
    epochs: int, warmup: int, lr: float
) -> None:
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = CosineLRScheduler(
        optimiser, t_initial=epochs, warmup_t=warmup, lr_min=1e-5, warmup_lr_init=1e-6
    )
    expected = []
    for epoch in range(epochs):
        expected.append(optimiser.param_groups[0]["lr"])
        scheduler.step(epoch)
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, lr=lr, schedule="timm_epoch")
    assert rates(recipe) == pytest.approx(expected, rel=1e-9)
