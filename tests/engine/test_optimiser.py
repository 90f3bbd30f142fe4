"""Optimisers per trial against torch's, and schedules against timm's and torch's."""

from __future__ import annotations

import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from adapters.trial_axis import own_part, pad_stack
from orchestrator.engine.optimiser import (
    STACKED,
    StackedAdamW,
    StackedOptimiser,
    StackedSGD,
    learning_rate,
)
from orchestrator.spec import Recipe

SHAPES = ({"a": (3, 2), "b": (5,)}, {"a": (4, 1), "b": (2,)}, {"a": (1, 6), "b": (7,)})
RATES, DECAYS = (1e-3, 0.2, 3.0), (0.0, 0.05, 0.3)


def randoms(seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {n: torch.randn(shape, generator=generator) for n, shape in own.items()} for own in SHAPES
    ]


def stacked(values: list[dict[str, Tensor]]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(pad_stack([own[name] for own in values])) for name in "ab"}


def step(
    optimiser: StackedOptimiser,
    parameters: dict[str, nn.Parameter],
    seed: int,
    clip: tuple[float, ...] = (),
) -> None:
    for name, gradient in stacked(randoms(seed)).items():
        parameters[name].grad = gradient.data
    optimiser.step([rate / seed for rate in RATES], DECAYS, clip)


TORCHS = {
    StackedAdamW: torch.optim.AdamW,
    StackedSGD: lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
}


def reference(
    steps: int,
    spared: str = "",
    clip: tuple[float, ...] = (0, 0, 0),
    kind: type[StackedOptimiser] = StackedAdamW,
) -> list[dict[str, Tensor]]:
    """torch.optim on each trial by itself."""
    results = []
    for index, start in enumerate(randoms(0)):
        own = {name: nn.Parameter(tensor) for name, tensor in start.items()}
        decays = {name: 0.0 if name in spared else DECAYS[index] for name in own}
        groups = [{"params": [p], "weight_decay": decays[name]} for name, p in own.items()]
        torchs = TORCHS[kind](groups)
        for seed in range(1, steps + 1):
            for group in torchs.param_groups:
                group["lr"] = RATES[index] / seed
            for name, parameter in own.items():
                parameter.grad = randoms(seed)[index][name]
            if clip[index]:
                nn.utils.clip_grad_norm_(list(own.values()), clip[index])
            torchs.step()
        results.append({name: parameter.detach() for name, parameter in own.items()})
    return results


def check(
    parameters: dict[str, nn.Parameter],
    steps: int,
    spared: str = "",
    clip: tuple[float, ...] = (0, 0, 0),
    kind: type[StackedOptimiser] = StackedAdamW,
) -> None:
    for index, own in enumerate(reference(steps, spared, clip, kind)):
        for name, expected in own.items():
            found = own_part(parameters[name], index, expected.shape)
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)
            outside = parameters[name][index].abs().sum() - found.abs().sum()
            assert abs(outside.item()) < 1e-4


every_optimiser = pytest.mark.parametrize("kind", STACKED.values())


@every_optimiser
@pytest.mark.parametrize("spared", ["", "b"])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_each_trial_equals_torchs(steps: int, spared: str, kind: type[StackedOptimiser]) -> None:
    """`spared` tensors do not decay."""
    parameters = stacked(randoms(0))
    optimiser = kind(parameters, spared)
    for seed in range(1, steps + 1):
        step(optimiser, parameters, seed)
    assert all(parameter.grad is None for parameter in parameters.values())
    check(parameters, steps, spared, kind=kind)


@every_optimiser
def test_each_trials_gradient_is_clipped_by_its_own_norm(kind: type[StackedOptimiser]) -> None:
    """The first trial's is short enough as it is in some steps; the last one's is left alone."""
    clip = (2.5, 0.1, 0.0)
    parameters = stacked(randoms(0))
    optimiser = kind(parameters)
    for seed in range(1, 9):
        step(optimiser, parameters, seed, clip)
    check(parameters, 8, clip=clip, kind=kind)
    step(optimiser, parameters, 9)
    clipped = stacked(reference(9, clip=clip, kind=kind))["a"]
    assert not torch.equal(parameters["a"], clipped), "off again"


@every_optimiser
def test_a_resumed_state_continues(kind: type[StackedOptimiser]) -> None:
    parameters = stacked(randoms(0))
    optimiser = kind(parameters)
    for seed in range(1, 5):
        step(optimiser, parameters, seed)
    again = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    resumed = kind(again)
    for index, shapes in enumerate(SHAPES):
        moments = {
            name: tuple(own_part(moment, index, shapes[name]) for moment in pair)
            for name, pair in optimiser.moments().items()
        }
        resumed.restore(index, 4, moments)
    for seed in range(5, 9):
        step(resumed, again, seed)
    check(again, 8, kind=kind)


@every_optimiser
def test_a_tensor_that_the_loss_does_not_use_is_no_gradient(kind: type[StackedOptimiser]) -> None:
    parameters = stacked(randoms(0))
    optimiser = kind(parameters)
    before = parameters["b"].detach().clone()
    parameters["a"].grad = torch.ones_like(parameters["a"])
    optimiser.step(RATES, (0.0, 0.0, 0.0))
    assert torch.equal(parameters["b"], before)


@every_optimiser
def test_nan_stays_in_its_row(kind: type[StackedOptimiser]) -> None:
    parameters = stacked(randoms(0))
    optimiser = kind(parameters)
    for seed in range(1, 4):
        for name, gradient in stacked(randoms(seed)).items():
            gradient.data[1] = torch.nan
            parameters[name].grad = gradient.data
        optimiser.step([rate / seed for rate in RATES], DECAYS)
    assert parameters["a"][1].isnan().all()
    for index in (0, 2):
        for name, expected in reference(3, kind=kind)[index].items():
            found = own_part(parameters[name], index, expected.shape)
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)


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


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("cooldown", [0, 10])
def test_timms_scheduler_and_its_cooldown(lag: int, cooldown: int) -> None:
    """`timm` is what it puts out; `timm_epoch` the same an epoch later; then min_lr."""
    kind = "timm_epoch" if lag else "timm"
    recipe = Recipe(epochs=100 + cooldown, cooldown_epochs=cooldown, schedule=kind, lr=0.02)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
    timms = CosineLRScheduler(optimiser, 100, lr_min=1e-5, warmup_t=10, warmup_lr_init=1e-6)
    expected = [timms._get_lr(max(epoch - lag, 0))[0] for epoch in range(recipe.epochs)]
    assert rates(recipe) == pytest.approx(expected, rel=1e-9)
    cosine = rates(recipe.with_values({"schedule": "cosine"}))
    assert cosine[100:] == pytest.approx([1e-5] * cooldown, rel=1e-9)
    assert cosine[55] == pytest.approx((0.02 + 1e-5) / 2)


def test_cosine_step_is_a_schedule_stepped_after_each_batch() -> None:
    """ARC's: 10 of 100 epochs of 32 steps warm up from 0, then half a cosine to 0."""
    steps, warm, total = 32, 320, 3200

    def factor(step: int) -> float:
        if step < warm:
            return step / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))

    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    expected = []
    for _ in range(total):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    recipe = Recipe(lr=0.01, warmup_lr=0.0, min_lr=0.0, schedule="cosine_step")
    found = [learning_rate(recipe, *divmod(step, steps), steps) for step in range(total)]
    assert found == pytest.approx(expected, rel=1e-9)
    by_epoch = recipe.with_values({"schedule": "cosine"})
    assert rates(by_epoch) == pytest.approx(expected[::steps], rel=1e-9)
    assert learning_rate(by_epoch, 40, 9, steps) == learning_rate(by_epoch, 40)
