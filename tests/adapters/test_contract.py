"""What every adapter owes, whatever it computes: one test, every adapter, ViT and DeiT."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from adapters import Adapter, attach, attached, build, detach, load, merge, names, save
from adapters.sites import find_sites
from tests.adapters.models import ADAPTERS, close, deit, images, train, vit

Make = Callable[..., nn.Module]
every_adapter = pytest.mark.parametrize(
    "adapter", ADAPTERS, ids=[f"{adapter.name}-{index}" for index, adapter in enumerate(ADAPTERS)]
)
every_model = pytest.mark.parametrize("make", [vit, deit])
CLASSES = 5


def trained(make: Make, adapter: Adapter, seed: int = 3, steps: int = 3) -> nn.Module:
    model = attach(make(), adapter, num_classes=CLASSES, seed=seed, drop_path=0.1)
    train(model, images(6), [torch.arange(6) % CLASSES], steps)
    return model


def backbone_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Without the adapter and under the names of the plain model."""
    state = {name.replace(".base.", "."): value for name, value in model.state_dict().items()}
    return {n: v.clone() for n, v in state.items() if not n.startswith(("adapter.", "head."))}


def test_every_built_in_adapter_is_in_the_contract() -> None:
    assert {adapter.name for adapter in ADAPTERS} == set(names())


@every_model
@every_adapter
def test_features_are_unchanged_at_the_start(adapter: Adapter, make: Make) -> None:
    expected = make().forward_features(images(4))  # type: ignore[operator]
    for mode in (False, True):
        model = attach(make().train(mode), adapter, num_classes=CLASSES)
        assert close(model.forward_features(images(4)), expected, 1e-6)  # type: ignore[operator]


@every_model
@every_adapter
def test_exactly_the_declared_tensors_train(adapter: Adapter, make: Make) -> None:
    model = attach(make(), adapter, num_classes=CLASSES)
    declared = set(adapter.start(adapter.select(find_sites(make())), torch.Generator()))
    training = {n for n, p in model.named_parameters() if p.requires_grad}
    names_of = {f"adapter.{n.replace('.', '/')}" for n in declared | {"head.weight", "head.bias"}}
    assert training == names_of

    before, moved = backbone_state(model), set()
    for _ in range(2):
        train(model, images(6), [torch.arange(6) % CLASSES], 1)
        moved |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {n for n in names_of if model.get_parameter(n).numel()}
    after = backbone_state(model)
    assert before.keys() == after.keys() == make().state_dict().keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@every_model
@every_adapter
@pytest.mark.parametrize("mode", [False, True])
def test_merge_gives_a_plain_equal_model(adapter: Adapter, make: Make, mode: bool) -> None:
    model = trained(make, adapter)
    expected = model(images(4))
    assert merge(model.train(mode)) is model
    assert model.training is mode
    assert model.state_dict().keys() == make(CLASSES).state_dict().keys()
    assert not {"adapter", "base"} & {n.split(".")[-1] for n, _ in model.named_modules()}
    assert {type(m) for m in model.modules()} == {type(m) for m in make(CLASSES).modules()}
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert close(model.eval()(images(4)), expected)
    assert model.num_classes == CLASSES


@every_model
@every_adapter
def test_detach_restores_the_model(adapter: Adapter, make: Make) -> None:
    plain = make(7)
    plain.get_parameter("norm.weight").requires_grad_(False)
    flags = {n: p.requires_grad for n, p in plain.named_parameters()}
    expected, state = plain(images(4)), copy.deepcopy(plain.state_dict())
    attach(plain, adapter, num_classes=CLASSES, drop_path=0.1)
    train(plain, images(6), [torch.arange(6) % CLASSES], 2)
    plain.train()
    assert detach(plain) is plain
    assert all(module.training for module in plain.modules())
    assert {n: p.requires_grad for n, p in plain.named_parameters()} == flags
    assert plain.state_dict().keys() == state.keys()
    assert torch.equal(plain.eval()(images(4)), expected)


@every_model
@every_adapter
def test_a_saved_adapter_gives_the_same_logits(
    adapter: Adapter, make: Make, tmp_path: Path
) -> None:
    model = trained(make, adapter)
    save(model, tmp_path)
    again = load(make(), tmp_path)
    assert attached(again).members[0].adapter == adapter
    assert torch.equal(again(images(4)), model(images(4)))


@every_adapter
def test_the_same_seed_gives_the_same_numbers(adapter: Adapter) -> None:
    torch.manual_seed(1)
    first = trained(vit, adapter)(images(4))
    torch.manual_seed(2)  # the global generator has no say
    assert torch.equal(trained(vit, adapter)(images(4)), first)
    if adapter.name != "linear":  # which starts at 0 whatever the seed
        assert not torch.equal(trained(vit, adapter, seed=4)(images(4)), first)


@every_adapter
def test_hyper_parameters_survive_json(adapter: Adapter) -> None:
    assert build(adapter.name, json.loads(json.dumps(adapter.to_dict()))) == adapter


@every_adapter
def test_a_copied_model_is_independent(adapter: Adapter) -> None:
    model = trained(vit, adapter)
    twin, expected = copy.deepcopy(model), model(images(4))
    train(twin, images(6), [torch.arange(6) % CLASSES], 2)
    assert torch.equal(model(images(4)), expected)
    assert not torch.equal(twin(images(4)), expected)
    assert close(merge(copy.deepcopy(twin))(images(4)), twin(images(4)))
