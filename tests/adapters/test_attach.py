"""attach, merge and what they refuse; models at the edges of what is supported."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

from adapters import (
    EFFT2,
    HTA,
    NOAH,
    RLRR,
    SSF,
    Adapter,
    AdapterError,
    BitFit,
    LinearProbe,
    LoRA,
    UnsupportedBackbone,
    attach,
    attached,
    detach,
    merge,
)
from adapters.base import Context, Parameter, Tensors, Update
from adapters.sites import Sites
from tests.adapters.models import close, images, randomise, train, vit


@pytest.mark.parametrize(
    "options",
    [
        {"init_values": 0.1},
        {"qkv_bias": False},
        {"qkv_bias": False, "proj_bias": False},
        {"class_token": False, "global_pool": "avg"},
        {"reg_tokens": 2, "no_embed_class": True},
        {"qk_norm": True, "mlp_ratio": 2.5},
        {"depth": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "adapter",
    [LoRA(sites=("mhsa", "ffn")), EFFT2(rank=3), HTA(sites=("v", "fc2")), BitFit(), RLRR()],
)
def test_variants_of_vit(options: Mapping[str, Any], adapter: Adapter) -> None:
    model = attach(vit(**options), adapter, num_classes=4, drop_path=0.2)
    train(model, images(4), [torch.arange(4)], 2)
    expected = model(images(3))
    assert merge(model).state_dict().keys() == vit(4, **options).state_dict().keys()
    assert close(model(images(3)), expected)


def test_without_a_head_the_features_come_out() -> None:
    model = attach(vit(), LoRA())
    assert attached(model).members[0].classes is None
    assert model(images(2)).shape == (2, 32)
    randomise(model)
    expected = model(images(2))
    assert close(merge(model)(images(2)), expected)
    assert isinstance(model.head, nn.Identity)


def test_every_way_through_the_model_is_adapted() -> None:
    model = attach(vit(), LoRA(sites=("ffn",)))
    randomise(model)
    fresh = copy.deepcopy(model)
    features = fresh.forward_features(images(2))  # the very first pass, and not through __call__
    plain = merge(copy.deepcopy(model))
    assert close(features, plain.forward_features(images(2)))
    steps = fresh.train()(images(2)) is not None and attached(fresh).steps
    assert steps == [1]
    found = fresh.eval().forward_intermediates(images(3), intermediates_only=True)
    expected = plain.forward_intermediates(images(3), intermediates_only=True)
    assert all(close(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("first", [LinearProbe(), LoRA()])
def test_a_second_adapter_is_refused(first: Adapter) -> None:
    model = attach(vit(), first, num_classes=3)
    with pytest.raises(AdapterError, match=r"attached to this VisionTransformer already; detach"):
        attach(model, LoRA())
    attach(detach(model), LoRA())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled is not supported"),
        ("resnet18", "ResNet is not supported"),
        ("swinv2_tiny_window8_256", "SwinTransformerV2 is not supported"),
    ],
)
def test_other_models_are_refused_by_name(name: str, message: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(UnsupportedBackbone, match=message):
        attach(model, LoRA())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_fn": ParallelScalingBlock}, r"blocks\.0 is a ParallelScalingBlock"),
        ({"attn_layer": "diff"}, r"blocks\.0\.attn is a DiffAttention"),
        ({"mlp_layer": timm.layers.GluMlp}, r"blocks\.0\.mlp is a GluMlp"),
        ({"norm_layer": timm.layers.RmsNorm}, r"blocks\.0\.norm1 is a RmsNorm"),
    ],
)
def test_other_blocks_are_refused_by_name(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedBackbone, match=message):
        attach(vit(**options), LoRA())


def test_other_layers_are_refused_by_name() -> None:
    model = vit()
    model.set_submodule("blocks.1.mlp.fc2", nn.Identity())
    with pytest.raises(UnsupportedBackbone, match=r"blocks\.1\.mlp\.fc2 is a Identity"):
        attach(model, LoRA())


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = vit(3)
    expected, flags = model(images(2)), [p.requires_grad for p in model.parameters()]
    for bad in (LoRA(layers=(9,)), [LoRA(), HTA()]):
        with pytest.raises(AdapterError):
            attach(model, bad)
    assert torch.equal(model(images(2)), expected)
    assert [p.requires_grad for p in model.parameters()] == flags


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (LoRA(sites=()), r"sites=\(\) with layers=None matches nothing"),
        (EFFT2(layers=()), r"layers=\(\) matches nothing"),
        (LoRA(sites=("qv",)), r"unknown site 'qv'; sites are mhsa, ffn, q, k, v, o, fc1, fc2"),
        (HTA(layers=(0, 3)), r"layers \[3\] do not exist; this backbone has blocks 0…2"),
        (HTA(layers=(-1,)), r"layers \[-1\] do not exist"),
    ],
)
def test_selections_that_match_nothing(adapter: Adapter, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach(vit(), adapter)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_init": "zeros"}, "head_init is 'zeros'; allowed: default, kaiming, zero"),
        ({"drop_path": 1.0}, "drop_path is 1.0; allowed: at least 0 and below 1"),
        ({"num_classes": 0}, "num_classes is 0; allowed: at least 1"),
        ({"seed": [1, 2, 3]}, r"3 values \[1, 2, 3\] for 2 trials"),
        ({"num_classes": [3, None]}, "heads for all of its trials or for none"),
    ],
)
def test_wrong_options(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach(vit(), [LoRA(), LoRA()], **{"num_classes": 2, **options})


@pytest.mark.parametrize("wrong", ["lora", LoRA, None])
def test_what_is_no_adapter(wrong: Any) -> None:
    with pytest.raises(AdapterError, match=r"attach takes adapters such as LoRA\(rank=8\), not"):
        attach(vit(), wrong)
    with pytest.raises(AdapterError, match="no trial at all"):
        attach(vit(), [])


def test_only_one_family_shares_a_stack() -> None:
    with pytest.raises(AdapterError, match="only trials of one adapter family"):
        attach(vit(), [EFFT2(), EFFT2(cores="shared")])


def test_stacks_of_several_cannot_be_merged() -> None:
    model = attach(vit(), [LoRA(), LoRA()], num_classes=2)
    with pytest.raises(AdapterError, match="merge takes one trial, this stack has 2"):
        merge(model)
    with pytest.raises(AdapterError, match="3 images does not divide among 2 trials"):
        model(images(3))


def test_calls_without_an_adapter() -> None:
    for call in (attached, detach, merge):
        with pytest.raises(AdapterError, match="no adapter is attached to this VisionTransformer"):
            call(vit())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"proj_drop_rate": 0.1}, r"blocks\.0\.attn\.proj_drop"),
        ({"attn_drop_rate": 0.1}, r"blocks\.0\.attn\.attn_drop"),
        ({"patch_drop_rate": 0.1}, "patch_drop"),
        ({"drop_path_rate": 0.1}, r"blocks\.1\.drop_path1"),
    ],
)
def test_what_draws_from_the_global_generator_takes_one_trial(
    options: Mapping[str, Any], name: str
) -> None:
    attach(vit(**options), LoRA(), num_classes=2)
    with pytest.raises(AdapterError, match=f"'{name}' draws from the global random generator"):
        attach(vit(**options), [LoRA(), LoRA()], num_classes=2)
    if "drop_path_rate" in options:  # replaced by masks of the trials' own
        attach(vit(**options), [LoRA(), LoRA()], num_classes=2, drop_path=[0.1, 0.0])


@dataclass(frozen=True)
class Bent(Adapter):
    """A user's adapter whose update is not linear and whose tensor does not decay."""

    name: ClassVar[str] = "bent"

    def select(self, sites: Sites) -> Sites:
        return sites.select(("o",))

    def start(self, sites: Sites, generator: torch.Generator) -> dict[str, Parameter]:
        return {"a.w": Parameter(torch.ones(1), decay=False)}

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        w = tensors["a.w"].unsqueeze(-1)
        return {site.path: lambda x: x.relu() * w for site in sites.linears}


def test_a_users_adapter_that_is_not_linear_cannot_be_merged() -> None:
    model = attach(vit(), Bent())
    expected = model(images(2))
    assert attached(model).undecayed == ("a/w",)
    with pytest.raises(
        AdapterError, match=r"bent cannot be merged: what it does at blocks\.0\.attn"
    ):
        merge(model)
    assert torch.equal(model(images(2)), expected)


@pytest.mark.parametrize(
    ("adapter", "spared"),
    [
        (SSF(), lambda name, _: name != "head.weight"),
        # What has `bias` or `norm` in its name, which the patch embedding's scale has not.
        (RLRR(), lambda name, _: "bias" in name or "norm" in name),
        (NOAH(prompts=2, rank=2, hidden=2), lambda name, dims: dims == 1 or "bias" in name),
        (BitFit(), lambda *_: False),
        (LoRA(), lambda *_: False),
    ],
)
def test_weight_decay_spares_what_the_authors_code_spares(
    adapter: Adapter, spared: Callable[[str, int], bool]
) -> None:
    """Of RLRR, SSF and NOAH; it acts on everything elsewhere, on the head's bias too."""
    stack = attached(attach(vit(), adapter, num_classes=3))
    shapes = {name: len(tensor.shape) - 1 for name, tensor in stack.stacked().items()}
    expected = {name.replace(".", "/") for name, dims in shapes.items() if spared(name, dims)}
    assert set(stack.undecayed) == expected
