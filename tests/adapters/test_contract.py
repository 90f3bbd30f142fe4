"""What every adapter owes, whatever it computes: one test, every adapter, ViT, DeiT and Swin."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from adapters import (
    Adapter,
    AdapterError,
    UnsupportedBackbone,
    attach,
    attached,
    build,
    detach,
    load,
    merge,
    names,
    save,
)  # fmt: skip
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.noah import NOAH
from tests.adapters.models import ADAPTERS, MERGEABLE, close, deit, images, swin, train, vit

Make = Callable[..., nn.Module]
IDS = [f"{adapter.name}-{index}" for index, adapter in enumerate(ADAPTERS)]
FURTHER = [a for i, a in enumerate(ADAPTERS) if a.name in {other.name for other in ADAPTERS[:i]}]
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=IDS)
every_case = pytest.mark.parametrize(
    ("make", "adapter"),
    [
        pytest.param(make, adapter, id=f"{name}-{make.__name__}")
        for adapter, name in zip(ADAPTERS, IDS, strict=True)
        for make in (vit, deit, swin)
        if not (isinstance(adapter, NOAH) and make is swin)
        and not (adapter in FURTHER and make is deit)  # which differs from ViT in its name alone
    ],
)
CLASSES, HEAD = 5, ("head.weight", "head.bias")


def starts_at_the_identity(adapter: Adapter) -> bool:
    """Whether METHODS.md promises it; SSF and RLRR have a start of their own, and `zero`."""
    prompts = {"vpt_shallow", "vpt_deep", "noah"}
    return adapter.name not in prompts and getattr(adapter, "init", "") != "theirs"


def trained(make: Make, adapter: Adapter, seed: int = 3, steps: int = 2) -> nn.Module:
    model = attach(make(), adapter, num_classes=CLASSES, seed=seed, drop_path=0.1)
    train(model, images(6), [torch.arange(6) % CLASSES], steps)
    return model


def backbone_state(model: nn.Module) -> Tensors:
    """Without the adapter and under the names of the plain model."""
    state = {}
    for name, value in model.state_dict().items():
        plain = name.replace(".base.", ".").replace("parametrizations.", "")
        state[plain.removesuffix(".original")] = value.clone()
    return {n: v for n, v in state.items() if not n.startswith(("adapter.", "head."))}


def plain_keys(make: Make) -> set[str]:
    return {name for name in make().state_dict() if not name.startswith("head.")}


def same(found: Tensors, expected: Tensors) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) for name, value in found.items()
    )


def test_every_built_in_adapter_is_in_the_contract() -> None:
    assert {adapter.name for adapter in ADAPTERS} == set(names())


@every_case
def test_features_at_the_start(make: Make, adapter: Adapter) -> None:
    """Unchanged where that is promised; no silent no-op where it is not."""
    expected = make().forward_features(images(4))  # type: ignore[operator]
    for mode in (False, True):
        model = attach(make().train(mode), adapter, num_classes=CLASSES)
        found = model.forward_features(images(4))  # type: ignore[operator]
        if starts_at_the_identity(adapter):
            assert close(found, expected, 2e-6)
        else:
            assert not close(found, expected, 1e-3)


@every_case
def test_exactly_the_declared_tensors_train(make: Make, adapter: Adapter) -> None:
    model = attach(make(), adapter, num_classes=CLASSES)
    started = adapter.start(adapter.select(find_sites(make())), torch.Generator())
    declared = {name for name in started if not name.startswith("state.")} | set(HEAD)
    training = {n for n, p in model.named_parameters() if p.requires_grad}
    assert training == {f"adapter.{name.replace('.', '/')}" for name in declared}

    before, moved = backbone_state(model), set()
    for _ in range(2):  # in the first step a factor that is 0 hides the other's gradient
        train(model, images(6), [torch.arange(6) % CLASSES], 1)
        moved |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name in training if model.get_parameter(name).numel()}
    assert before.keys() == plain_keys(make)
    assert same(backbone_state(model), before)


@every_case
def test_merge_gives_a_plain_equal_model_or_is_refused(make: Make, adapter: Adapter) -> None:
    model = trained(make, adapter)
    expected = model(images(4))
    if adapter.name not in MERGEABLE:
        with pytest.raises(AdapterError, match=f"{adapter.name} cannot be merged: what it does at"):
            merge(model)
        assert torch.equal(model(images(4)), expected)
        return
    mode = make is deit
    assert merge(model.train(mode)) is model
    assert model.training is mode
    plain = make(CLASSES)
    assert backbone_state(model).keys() == plain_keys(make)
    assert [type(module) for module in model.modules()] == [type(m) for m in plain.modules()]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert close(model.eval()(images(4)), expected)
    assert model.num_classes == CLASSES


@every_case
def test_detach_restores_the_model(make: Make, adapter: Adapter) -> None:
    plain = make(7)
    plain.get_parameter("norm.weight").requires_grad_(False)
    flags = {n: p.requires_grad for n, p in plain.named_parameters()}
    kinds = [type(module) for module in plain.modules()]
    expected, state = plain(images(4)), copy.deepcopy(plain.state_dict())
    attach(plain, adapter, num_classes=CLASSES, drop_path=0.1)
    train(plain, images(6), [torch.arange(6) % CLASSES], 2)
    plain.train()
    assert detach(plain) is plain
    assert all(module.training for module in plain.modules())
    assert {n: p.requires_grad for n, p in plain.named_parameters()} == flags
    assert [type(module) for module in plain.modules()] == kinds
    assert list(plain.state_dict()) == list(state)
    assert torch.equal(plain.eval()(images(4)), expected)


@every_case
def test_a_saved_adapter_gives_the_same_logits(
    make: Make, adapter: Adapter, tmp_path: Path
) -> None:
    model = trained(make, adapter)
    save(model, tmp_path)
    again = load(make(), tmp_path)
    assert attached(again).members[0].adapter == adapter
    assert same(attached(again).tensors_of(0), attached(model).tensors_of(0))
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
    model = trained(vit, adapter, steps=1)
    expected = model(images(4))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images(4)), expected)
    train(twin, images(6), [torch.arange(6) % CLASSES], 1)
    assert torch.equal(model(images(4)), expected)
    after = twin(images(4))
    assert not torch.equal(after, expected)
    detach(copy.deepcopy(twin))
    assert torch.equal(twin(images(4)), after)


@every_adapter
def test_one_trial_or_several(adapter: Adapter) -> None:
    if adapter.lone:
        with pytest.raises(AdapterError, match="one copy: one trial, not 2"):
            attach(vit(), [adapter, adapter], num_classes=CLASSES)
    else:
        model = attach(vit(), [adapter, adapter], num_classes=CLASSES, seed=[1, 2])
        assert model(images(4)).shape == (4, CLASSES)


def test_noah_has_no_meaning_on_swin() -> None:
    model = swin()
    with pytest.raises(UnsupportedBackbone, match="looked for timm's VisionTransformer"):
        attach(model, NOAH())
    attach(model, ADAPTERS[0])
