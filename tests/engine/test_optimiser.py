from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adapters.trial_axis import own_part, pad_stack
from orchestrator.engine.optimiser import StackedAdamW

SHAPES = ({"a": (3, 2), "b": (5,)}, {"a": (4, 1), "b": (2,)}, {"a": (1, 6), "b": (7,)})
RATES, DECAYS = (1e-3, 0.2, 3.0), (0.0, 0.05, 0.3)


def randoms(seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {n: torch.randn(shape, generator=generator) for n, shape in own.items()} for own in SHAPES
    ]


def stacked(values: list[dict[str, Tensor]]) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(pad_stack([own[name] for own in values])) for name in "ab"}


def step(optimiser: StackedAdamW, parameters: dict[str, nn.Parameter], seed: int) -> None:
    for name, gradient in stacked(randoms(seed)).items():
        parameters[name].grad = gradient.data
    optimiser.step([rate / seed for rate in RATES], DECAYS)


def reference(steps: int, spared: str = "") -> list[dict[str, Tensor]]:
    """torch.optim.AdamW on each trial by itself."""
    results = []
    for index, start in enumerate(randoms(0)):
        own = {name: nn.Parameter(tensor) for name, tensor in start.items()}
        decays = {name: 0.0 if name in spared else DECAYS[index] for name in own}
        groups = [{"params": [p], "weight_decay": decays[name]} for name, p in own.items()]
        adamw = torch.optim.AdamW(groups)
        for seed in range(1, steps + 1):
            for group in adamw.param_groups:
                group["lr"] = RATES[index] / seed
            for name, parameter in own.items():
                parameter.grad = randoms(seed)[index][name]
            adamw.step()
        results.append({name: parameter.detach() for name, parameter in own.items()})
    return results


def check(parameters: dict[str, nn.Parameter], steps: int, spared: str = "") -> None:
    for index, own in enumerate(reference(steps, spared)):
        for name, expected in own.items():
            found = own_part(parameters[name], index, expected.shape)
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)
            outside = parameters[name][index].abs().sum() - found.abs().sum()
            assert abs(outside.item()) < 1e-4


@pytest.mark.parametrize("spared", ["", "b"])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_each_trial_equals_torchs_adamw(steps: int, spared: str) -> None:
    """`spared` tensors do not decay."""
    parameters = stacked(randoms(0))
    optimiser = StackedAdamW(parameters, spared)
    for seed in range(1, steps + 1):
        step(optimiser, parameters, seed)
    assert all(parameter.grad is None for parameter in parameters.values())
    check(parameters, steps, spared)


def test_a_resumed_state_continues() -> None:
    parameters = stacked(randoms(0))
    optimiser = StackedAdamW(parameters)
    for seed in range(1, 5):
        step(optimiser, parameters, seed)
    again = {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}
    resumed = StackedAdamW(again)
    for index, shapes in enumerate(SHAPES):
        moments = {
            name: tuple(own_part(moment, index, shapes[name]) for moment in pair)
            for name, pair in optimiser.moments().items()
        }
        resumed.restore(index, 4, moments)  # type: ignore[arg-type]  # pairs
    for seed in range(5, 9):
        step(resumed, again, seed)
    check(again, 8)


def test_a_tensor_that_the_loss_does_not_use_is_no_gradient() -> None:
    parameters = stacked(randoms(0))
    optimiser = StackedAdamW(parameters)
    before = parameters["b"].detach().clone()
    parameters["a"].grad = torch.ones_like(parameters["a"])
    optimiser.step(RATES, (0.0, 0.0, 0.0))
    assert torch.equal(parameters["b"], before)


def test_nan_stays_in_its_row() -> None:
    parameters = stacked(randoms(0))
    optimiser = StackedAdamW(parameters)
    for seed in range(1, 4):
        for name, gradient in stacked(randoms(seed)).items():
            gradient.data[1] = torch.nan
            parameters[name].grad = gradient.data
        optimiser.step([rate / seed for rate in RATES], DECAYS)
    assert parameters["a"][1].isnan().all()
    for index in (0, 2):
        for name, expected in reference(3)[index].items():
            found = own_part(parameters[name], index, expected.shape)
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)
