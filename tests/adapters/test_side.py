"""Side networks against their equations on a plain model, block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adapters import AdapterError, UnsupportedBackbone, attach
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.side import DTL, LAST
from adapters.stack import start_member
from tests.adapters.models import (
    DEPTH,
    WIDTH,
    adapted,
    close,
    images,
    random_member,
    started,
    swin,
    uniform,
    vit,
)

SIDE = 4
"""Of `vit`'s grid of patches, which one class token precedes."""


def convolved(tokens: Tensor, kernel: Tensor) -> Tensor:
    grid = tokens[:, 1:].mT.reshape(len(tokens), WIDTH, SIDE, SIDE)
    found = F.conv2d(grid, kernel.unsqueeze(1), padding=1, groups=WIDTH)
    return torch.cat((tokens[:, :1], found.flatten(2).mT), dim=1)


def dtl_features(adapter: DTL, tensors: Tensors, x: Tensor) -> Tensor:
    model = vit()
    x, h = model._pos_embed(model.patch_embed(x)), torch.zeros(())
    first = DEPTH // 2 if adapter.first is None else adapter.first
    for index, block in enumerate(model.blocks):
        if f"blocks.{index}.A" in tensors:
            h = h + x @ tensors[f"blocks.{index}.A"] @ tensors[f"blocks.{index}.B"]
        x = block(x)
        if index >= first and h.dim():
            added = h * torch.sigmoid(adapter.beta * h)
            x = x + (convolved(added, tensors["kernel"]) if adapter.kernel else added)
    if adapter.pool == "patches":
        return model.norm(x[:, 1:].mean(1))
    return model.norm(x)[:, 0]


@pytest.mark.parametrize(
    "adapter",
    [
        DTL(rank=3),
        DTL(rank=2, beta=1.5, kernel=3, first=0),
        DTL(layers=(2,), pool="backbone"),
        DTL(layers=(0, 1), first=2, kernel=3),
    ],
)
@torch.no_grad()
def test_dtl(adapter: DTL) -> None:
    members = [random_member(vit, adapter, seed) for seed in (1, 2)]
    x = images(4)
    found = adapted(vit, *members)(x).chunk(2)
    for own, member, part in zip(found, members, x.chunk(2), strict=True):
        assert close(own, dtl_features(adapter, member.tensors, part), 1e-5)


@pytest.mark.parametrize("adapter", [LAST(rank=3), LAST(rank=2, gap=3, repeats=2)])
@torch.no_grad()
def test_last(adapter: LAST) -> None:
    member, x, model = random_member(vit, adapter), images(2), vit()
    states = [model._pos_embed(model.patch_embed(x))]
    for block in model.blocks:
        states.append(block(states[-1]))
    z = states[:: adapter.gap]
    u = z[0]
    for j in range(1, len(z)):
        u = u + z[j]
        for repeat in range(adapter.repeats):
            q, k, v, o, gamma, beta = (
                member.tensors[f"side.{j}.{repeat}.{name}"]
                for name in ("q", "k", "v", "o", "gamma", "beta")
            )
            normal = F.layer_norm(u, (WIDTH,), gamma, beta)
            weights = (normal @ q @ (normal @ k).mT / adapter.rank**0.5).softmax(-1)
            u = u + weights @ (normal @ v) @ o
    expected = model.norm(u - sum(z[:-1]))[:, 0]
    assert close(adapted(vit, member)(x), expected, 1e-5)


def test_starts() -> None:
    tensors = started(DTL(rank=64, kernel=3), vit())
    assert uniform(tensors["blocks.1.A"], WIDTH**-0.5)
    assert not tensors["blocks.1.B"].any()
    assert uniform(tensors["kernel"], 1 / 3)
    tensors = started(LAST(rank=64), vit())
    assert all(uniform(tensors[f"side.3.0.{name}"], WIDTH**-0.5) for name in "qkv")
    assert not tensors["side.3.0.o"].any()
    head = start_member(DTL(), find_sites(vit()), 0, 50).parameters
    assert 0.015 < head["head.weight"].value.std() < 0.025
    assert not head["head.bias"].value.any()
    assert not head["head.bias"].decay


def test_what_they_cannot_be_attached_to() -> None:
    for adapter in (DTL(), LAST()):
        with pytest.raises(UnsupportedBackbone, match="not Swin"):
            attach(swin(), adapter)
    with pytest.raises(AdapterError, match="first is 3; this backbone has blocks 0…2"):
        attach(vit(), DTL(first=3))
    with pytest.raises(AdapterError, match="gap is 2; it must divide the number of blocks, 3"):
        attach(vit(), LAST(gap=2))
    oblong = attach(vit(img_size=(32, 64)), DTL(kernel=3))
    with pytest.raises(AdapterError, match="square grid of patches, not 32"):
        oblong(torch.randn(1, 3, 32, 64))
