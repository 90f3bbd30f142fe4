"""Every built-in adapter passes the conformance kit, with the claims of docs/methods.md.

Then what `attach`, `merge`, `detach` and copies owe to a model, for one adapter per kind of edit.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adapters import Adapter, AdapterError, UnsupportedBackbone, attach, attached, detach, merge
from adapters.bottleneck import AdaptFormer
from adapters.full import Full
from adapters.heads import LinearProbe, MLPHead
from adapters.lora import LoRA
from adapters.names import built_in
from adapters.noah import NOAH
from adapters.per_feature import SSF
from adapters.testing import check
from adapters.vpt import VPTShallow
from tests.adapters.claims import CLAIMS
from tests.adapters.models import ADAPTERS, Make, every_model, images, swin, train, vit

EDITS: tuple[Adapter, ...] = (
    LinearProbe(),
    LoRA(rank=2),  # a linear layer
    SSF(),  # norms and the patch embedding
    VPTShallow(prompts=2),  # blocks, Swin's attentions and mergings
    AdaptFormer(hidden=2),  # a norm and a stochastic depth
    Full(),  # the backbone's own parameters
    MLPHead(hidden=1),  # the features
)
every_adapter = pytest.mark.parametrize(
    "adapter", ADAPTERS, ids=[f"{a.name}-{i}" for i, a in enumerate(ADAPTERS)]
)
every_edit = pytest.mark.parametrize("adapter", EDITS, ids=[a.name for a in EDITS])
CLASSES = 5


def trained(make: Make, adapter: Adapter, steps: int = 1) -> nn.Module:
    model = attach(make(), adapter, num_classes=CLASSES, seed=3, drop_path=0.1)
    train(model, images(6), [torch.arange(6) % CLASSES], steps)
    return model


def test_every_built_in_adapter_is_in_the_contract() -> None:
    assert {adapter.name for adapter in ADAPTERS} == set(built_in())


@every_adapter
def test_the_contract(adapter: Adapter) -> None:
    claim = CLAIMS[adapter.name]
    check(adapter, identity=claim.identity(adapter), merges=claim.merges)


@every_adapter
def test_a_bf16_backbone_keeps_fp32_tensors(adapter: Adapter) -> None:
    model = attach(vit().bfloat16(), adapter, num_classes=CLASSES)
    assert {tensor.dtype for tensor in attached(model).stacked().values()} == {torch.float32}
    train(model, images(4).bfloat16(), [torch.arange(4)], 2)
    assert model(images(2).bfloat16()).isfinite().all()


@every_adapter
def test_a_step_under_autocast(adapter: Adapter) -> None:
    model = attach(vit(), adapter, num_classes=CLASSES).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(4))
    logits.float().square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_edit
@every_model
def test_detach_restores_modules_flags_and_outputs(make: Make, adapter: Adapter) -> None:
    plain = make(7)
    plain.get_parameter("norm.weight").requires_grad_(False)
    flags = {n: p.requires_grad for n, p in plain.named_parameters()}
    kinds = [type(module) for module in plain.modules()]
    expected, state = plain(images(4)), copy.deepcopy(plain.state_dict())
    attach(plain, adapter, num_classes=CLASSES, drop_path=0.1)
    train(plain, images(6), [torch.arange(6) % CLASSES], 1)
    plain.train()
    assert detach(plain) is plain
    assert all(module.training for module in plain.modules())
    assert {n: p.requires_grad for n, p in plain.named_parameters()} == flags
    assert [type(module) for module in plain.modules()] == kinds
    assert list(plain.state_dict()) == list(state)
    assert not any(module._forward_pre_hooks for module in plain.modules())
    assert torch.equal(plain.eval()(images(4)), expected)


@every_edit
@every_model
def test_merge_leaves_a_plain_model_or_is_refused(make: Make, adapter: Adapter) -> None:
    model = trained(make, adapter)
    if not CLAIMS[adapter.name].merges:
        with pytest.raises(AdapterError, match=f"{adapter.name} cannot be merged: what it does at"):
            merge(model)
        return
    mode, plain = make is swin, make(CLASSES)
    assert merge(model.train(mode)) is model
    assert model.training is mode
    assert [type(module) for module in model.modules()] == [type(m) for m in plain.modules()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model.num_classes == CLASSES


@every_edit
def test_a_copied_model_is_independent(adapter: Adapter) -> None:
    model = trained(vit, adapter)
    expected = model(images(4))
    other = copy.deepcopy(model)
    assert torch.equal(other(images(4)), expected)
    train(other, images(6), [torch.arange(6) % CLASSES], 1)
    assert torch.equal(model(images(4)), expected)
    after = other(images(4))
    assert not torch.equal(after, expected)
    detach(copy.deepcopy(other))
    assert torch.equal(other(images(4)), after)


@pytest.mark.parametrize(
    "adapter", [a for a in ADAPTERS if a.max_trials == 1], ids=lambda a: a.name
)
def test_adapters_that_take_one_trial_refuse_two(adapter: Adapter) -> None:
    with pytest.raises(AdapterError, match="one copy: one trial, not 2"):
        attach(vit(), [adapter, adapter], num_classes=CLASSES)


def test_noah_has_no_meaning_on_swin() -> None:
    model = swin()
    with pytest.raises(UnsupportedBackbone, match=r"looked for timm's VisionTransformer.*windows"):
        attach(model, NOAH())
    attach(model, ADAPTERS[0])
