"""Prompt tokens against the models that their paper describes, written out token by token."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapters import AdapterError, attach
from adapters.base import Adapter, Tensors
from adapters.testing import tiny_swin
from adapters.vpt import VPTDeep, VPTShallow
from tests.adapters.models import (
    DEPTH,
    WIDTH,
    Make,
    adapted,
    close,
    images,
    random_member,
    started,
    uniform,
    vit,
)

VARIANTS: tuple[Adapter, ...] = (
    VPTShallow(prompts=3),
    VPTShallow(prompts=2, layers=(1, 2)),
    VPTDeep(prompts=3),
    VPTDeep(prompts=2, layers=(0, 1)),
)


def swin() -> nn.Module:
    """The tiny Swin with larger weights: images and windows then act on the prompts noticeably."""
    model = tiny_swin()
    for parameter in model.parameters():
        parameter.data *= 8 if parameter.dim() == 2 else 1
    return model


def of_block(tensors: Tensors, index: int) -> Tensor | None:
    return tensors.get(f"blocks.{index}.prompts")


def prompted_tokens(model: nn.Module, tensors: Tensors, x: Tensor) -> tuple[Tensor, int]:
    """The last block's output, prompts still in it, and how many: the authors' order of things."""
    tokens = model._pos_embed(model.patch_embed(x))  # type: ignore[operator]
    count, images = 0, len(x)
    for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
        new = of_block(tensors, index)
        if new is None and index == 0:
            new = tensors.get("prompts")
        if new is not None:
            rest = tokens[:, 1 + count :]
            tokens = torch.cat((tokens[:, :1], new.expand(images, -1, -1), rest), dim=1)
            count = new.shape[0]
        tokens = block(tokens)
    return tokens, count


@pytest.mark.parametrize("adapter", [VPTShallow(prompts=4), VPTDeep(prompts=3)])
def test_the_class_token_is_the_papers(adapter: VPTDeep) -> None:
    member, x = random_member(vit, adapter, std=1.0), images(3)
    tokens, count = prompted_tokens(vit(), member.tensors, x)
    assert count == adapter.prompts
    expected = vit().norm(tokens)[:, 0]
    assert close(adapted(vit, member)(x), expected)
    assert not close(vit()(x), expected, 1e-2)


@pytest.mark.parametrize("adapter", [VPTShallow(prompts=4), VPTDeep(prompts=3)])
def test_average_pooling_is_over_the_images_tokens(adapter: Adapter) -> None:
    def make() -> nn.Module:
        return vit(global_pool="avg")

    member, x = random_member(make, adapter, std=1.0), images(3)
    tokens, count = prompted_tokens(make(), member.tensors, x)
    expected = make().fc_norm(tokens[:, 1 + count :].mean(1))  # type: ignore[operator]
    assert close(adapted(make, member)(x), expected)
    assert adapted(make, member).forward_features(x).shape == (3, 17, WIDTH)  # type: ignore[operator]


def test_registers_come_before_the_prompts() -> None:
    seen: list[Tensor] = []
    member = random_member(lambda: vit(reg_tokens=2), VPTDeep(prompts=2))
    model = adapted(lambda: vit(reg_tokens=2), member)
    plain = vit(reg_tokens=2)
    for one in (model, plain):
        inner = one.get_submodule("blocks.0.base" if one is model else "blocks.0")
        inner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        one(images(2))
    longer, tokens = seen
    assert torch.equal(longer[:, :3], tokens[:, :3])
    assert torch.equal(longer[:, 3:5], member.tensors["blocks.0.prompts"].expand(2, -1, -1))
    assert torch.equal(longer[:, 5:], tokens[:, 3:])


def windows_of(block: nn.Module, x: Tensor) -> list[tuple[list[tuple[int, int]], Tensor | None]]:
    """Each window's tokens as places (row, column) of the map, and the window's mask."""
    height, width = x.shape[1:3]
    rows, columns = block.window_size  # type: ignore[misc]
    down, right = block.shift_size  # type: ignore[misc]
    mask = block.attn_mask
    found = []
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            places = [
                ((top + r + down) % height, (left + c + right) % width)
                for r in range(rows)
                for c in range(columns)
            ]
            found.append((places, None if mask is None else mask[len(found)]))  # type: ignore[index]
    return found


def attention(attn: nn.Module, tokens: Tensor, prompts: int, mask: Tensor | None) -> Tensor:
    """Window attention over (p + N, C), head by head; prompts have no bias and no mask."""
    q, k, v = attn.qkv(tokens).chunk(3, dim=-1)  # type: ignore[operator]
    bias = attn._get_rel_pos_bias()[0]  # type: ignore[operator]
    heads = []
    size = q.shape[-1] // attn.num_heads  # type: ignore[operator]
    for head in range(attn.num_heads):  # type: ignore[call-overload]
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].mT / sqrt(size)
        scores[prompts:, prompts:] += bias[head] + (0 if mask is None else mask)
        heads.append(scores.softmax(-1) @ v[:, own])
    return attn.proj(torch.cat(heads, dim=-1))  # type: ignore[no-any-return,operator]


def swin_block(block: nn.Module, x: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """One block for x (B,H,W,C), prompts (B,p,C); the prompts' outputs averaged over windows."""
    p, normed, first = prompts.shape[1], block.norm1(x), block.norm1(prompts)  # type: ignore[operator]
    y, out = torch.empty_like(x), torch.zeros_like(prompts)
    windows = windows_of(block, x)
    for image in range(len(x)):
        for places, mask in windows:
            own = torch.stack([normed[image, r, c] for r, c in places])
            joint = torch.cat((first[image], own))
            z = attention(block.attn, joint, p, mask)  # type: ignore[arg-type]
            out[image] += z[:p] / len(windows)
            for (row, column), token in zip(places, z[p:], strict=True):
                y[image, row, column] = token
    x, prompts = x + y, prompts + out
    ffn = nn.Sequential(block.norm2, block.mlp)  # type: ignore[arg-type]
    return x + ffn(x), prompts + ffn(prompts)


def prompted_swin(tensors: Tensors, layers: tuple[int, ...], x: Tensor) -> Tensor:
    """The pooled features; shallow prompts go on through the patch mergings, copied four times."""
    model: Any = swin()
    index = 0
    x = model.patch_embed(x)
    prompts = tensors["prompts"].expand(len(x), -1, -1) if "prompts" in tensors else None
    for number, stage in enumerate(model.layers):
        x = stage.downsample(x)
        if number and prompts is not None and prompts.shape[-1] < x.shape[-1]:
            merging = stage.downsample
            prompts = merging.reduction(merging.norm(torch.cat([prompts] * 4, dim=-1)))
        for block in stage.blocks:
            own = of_block(tensors, index)
            entering = prompts if own is None else own.expand(len(x), -1, -1)
            if index in layers and entering is not None:
                x, entering = swin_block(block, x, entering)
                prompts = entering if own is None else None
            else:
                x = block(x)
            index += 1
    return model.norm(x).mean((1, 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [VPTShallow, VPTDeep])
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 2), (0, 3), (2,)])
@torch.no_grad()
def test_windows_attend_to_the_prompts(kind: type[VPTDeep], layers: tuple[int, ...]) -> None:
    member = random_member(swin, kind(prompts=3, layers=layers), std=1.0)
    x = images(2)
    expected = prompted_swin(member.tensors, layers, x)
    assert close(adapted(swin, member)(x), expected)
    assert not close(swin()(x), expected, 1e-2)


def test_shallow_prompts_go_around_blocks_that_are_left_out() -> None:
    member, x = random_member(vit, VPTShallow(prompts=2, layers=(0, 2)), std=1.0), images(3)
    model = vit()
    prompts = member.tensors["prompts"].expand(3, -1, -1)
    tokens = model._pos_embed(model.patch_embed(x))
    for index, block in enumerate(model.blocks):
        if index == 1:
            tokens = block(tokens)
        else:
            tokens = block(torch.cat((prompts, tokens), dim=1))
            prompts, tokens = tokens[:, :2], tokens[:, 2:]
    assert close(adapted(vit, member)(x), model.norm(tokens)[:, 0])


def test_layers_choose_the_blocks() -> None:
    assert set(started(VPTDeep(layers=(2,)), vit())) == {"blocks.2.prompts"}
    shapes = {n: t.shape for n, t in started(VPTDeep(prompts=2), swin()).items()}
    widths = (16, 16, 32, 64)
    assert shapes == {f"blocks.{i}.prompts": (2, width) for i, width in enumerate(widths)}
    assert started(VPTShallow(layers=(3,)), swin())["prompts"].shape == (10, 64)


def test_features_between_blocks_have_the_images_tokens_only() -> None:
    for adapter in VARIANTS:
        model = adapted(vit, random_member(vit, adapter))
        shapes = [y.shape for y in model.forward_intermediates(images(2))[1]]  # type: ignore[operator]
        assert shapes == [(2, WIDTH, 4, 4)] * DEPTH


@pytest.mark.parametrize(("make", "patch", "width"), [(vit, 8, WIDTH), (swin, 4, 16)])
@pytest.mark.parametrize("kind", [VPTShallow, VPTDeep])
def test_starts(make: Make, patch: int, width: int, kind: type[VPTDeep]) -> None:
    bound = sqrt(6 / (3 * patch**2 + width))
    assert all(uniform(t, bound) for t in started(kind(prompts=50), make()).values())


def test_dropout_is_drawn_per_image_and_element() -> None:
    seen: list[Tensor] = []
    member = random_member(vit, VPTShallow(prompts=40, dropout=0.3), std=1.0)
    model = adapted(vit, member)
    inner = model.get_submodule("blocks.0.base")
    inner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 1:41]))
    model.train()(images(2))
    model.eval()(images(2))
    trained, evaluated = seen
    prompts = member.tensors["prompts"]
    assert torch.equal(evaluated, prompts.expand(2, -1, -1))
    ratio = trained / prompts
    assert close(ratio[ratio != 0], torch.full_like(ratio[ratio != 0], 1 / 0.7))
    assert (ratio == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(ratio[0], ratio[1])


def test_different_numbers_of_prompts_do_not_stack() -> None:
    for kind in (VPTShallow, VPTDeep):
        with pytest.raises(AdapterError, match="only trials of one adapter family share a stack"):
            attach(vit(), [kind(prompts=2), kind(prompts=3)])


@pytest.mark.parametrize("kind", [VPTShallow, VPTDeep])
def test_attention_cannot_be_left_out(kind: type[VPTDeep]) -> None:
    with pytest.raises(
        AdapterError, match=r"sites is \('ffn',\); allowed: \('mhsa', 'ffn'\), \('mh"
    ):
        kind(sites=("ffn",))
