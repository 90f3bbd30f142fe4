"""A pass in two parts is the pass."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import adapters
from adapters import attach
from adapters.backbones import find_sites
from adapters.names import built_in
from adapters.partial_forward import begin, finish, first_changed_block
from adapters.stack import start_member


def vit() -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    return timm.models.VisionTransformer(num_classes=0, **options).eval()


def swin() -> nn.Module:
    options = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 16}
    sizes = {"depths": (1, 2, 1), "num_heads": (1, 2, 4)}
    return timm.models.SwinTransformer(num_classes=0, **options, **sizes).eval()


MODELS = {"vit": (vit, 32, 3), "swin": (swin, 64, 4)}


@pytest.mark.parametrize("name", MODELS)
def test_it_can_be_cut_before_every_block_and_after_the_last(name: str) -> None:
    make, side, depth = MODELS[name]
    model, images = make(), torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = model(images)
        for block in range(depth + 1):
            found = finish(model, begin(model, images, block), block)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_an_adapted_model_goes_on_from_a_frozen_beginning(name: str) -> None:
    make, side, depth = MODELS[name]
    model, images = make(), torch.randn(2, 3, side, side)
    last = depth - 1
    with torch.no_grad():
        begun = begin(model, images, last)
        attach(model, adapters.get("lora")(layers=(last,)), num_classes=5)
        for parameter in model.adapter.parameters():
            parameter.normal_()
        expected = model(images)
        model.adapter.prepare(2, torch.float32)
        torch.testing.assert_close(finish(model, begun, last), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "adapter", "first"),
    [
        ("vit", adapters.get("lora")(), 0),
        ("vit", adapters.get("lora")(layers=(2,)), 2),
        ("vit", adapters.get("linear")(), 4),
        ("vit", adapters.get("mlp_head")(), 4),
        ("vit", adapters.get("full")(), None),
        ("vit", adapters.get("partial")(blocks=1), 2),
        ("vit", adapters.get("ssf")(), None),  # the patch embedding
        ("vit", adapters.get("vpt_shallow")(), 0),
        ("vit", adapters.get("arc")(layers=(1,)), 1),
        ("swin", adapters.get("lora")(layers=(1, 3)), 1),
        ("swin", adapters.get("ssf")(layers=(3,)), 3),
        ("swin", adapters.get("linear")(), 5),
    ],
)
def test_the_first_block_that_an_adapter_changes(
    name: str, adapter: adapters.Adapter, first: int | None
) -> None:
    sites = find_sites(MODELS[name][0]())
    assert first_changed_block(start_member(adapter, sites, 0, None), sites) == first


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("adapter", sorted(built_in()))
def test_nothing_before_the_first_changed_block_is_changed(adapter: str, name: str) -> None:
    """Every adapter, with random tensors: up to there the adapted model is the frozen one."""
    make, side, depth = MODELS[name]
    model, images = make(), torch.randn(2, 3, side, side)
    kind = adapters.get(adapter)
    try:
        one = kind() if adapter in ("linear", "mlp_head", "full", "partial") else kind(layers=(1,))
        sites = find_sites(model)
        member = start_member(one, sites, 0, None)
    except adapters.AdapterError as error:
        pytest.skip(f"not on {name}: {error}")
    first = first_changed_block(member, sites)
    if first is None:
        pytest.skip("it changes what comes before the blocks")
    cut = min(first, depth)
    with torch.no_grad():
        frozen = begin(model, images, cut)
        attach(model, one, num_classes=3)
        for parameter in model.adapter.parameters():
            parameter.normal_(std=0.3)
        expected = model(images)
        model.adapter.prepare(2, torch.float32)
        found = finish(model, frozen, cut)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert torch.equal(begin(model, images, cut), frozen) or cut == 0
