"""NOAH against its three parts written into the block's formula."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor

from adapters import AdapterError, attach, merge
from adapters.backbones import find_sites
from adapters.base import Adapter, Tensors
from adapters.noah import NOAH
from adapters.stack import start_member
from adapters.trial_axis import RandomMasks
from tests.adapters.models import (
    DEPTH,
    WIDTH,
    adapted,
    close,
    images,
    normal,
    random_member,
    started,
    uniform,
    vit,
)

VARIANTS: tuple[NOAH, ...] = (
    NOAH(prompts=3, rank=2, hidden=4),
    NOAH(prompts=2, rank=3, hidden=1, prompts_depth=1, rank_depth=3, hidden_depth=2),
    NOAH(prompts=0, rank=0, hidden=3),
    NOAH(prompts=2, rank=2, hidden=2, sites=("mhsa",), layers=(1, 2)),
    NOAH(prompts=2, rank=2, hidden=2, sites=("ffn",)),
    NOAH(prompts=(3, 1, 2), rank=(0, 2, 1), hidden=(4, 0, 1)),
    NOAH(prompts=(2, 0, 3), rank=0, hidden=0),
    NOAH(prompts=(0, 3, 0), rank=0, hidden=0),
)


def expected_features(tensors: Tensors, x: Tensor) -> Tensor:
    """ΔW of LoRA in the weights, prompts appended last, replacing those of the block before (which
    stay where a block has none), the adapter on the FFN."""
    model = vit()
    tokens = model._pos_embed(model.patch_embed(x))
    count = 0
    for index, block in enumerate(model.blocks):
        new = tensors.get(f"blocks.{index}.prompts")
        if new is not None:
            tokens = tokens[:, : tokens.shape[1] - count]
            tokens = torch.cat((tokens, new.expand(len(x), -1, -1)), dim=1)
        count = 0 if new is None else new.shape[0]
        if f"blocks.{index}.qkv.A" in tensors:
            delta = tensors[f"blocks.{index}.qkv.A"] @ tensors[f"blocks.{index}.qkv.B"]
            block.attn.qkv.weight.data += delta.T
        tokens = tokens + block.attn(block.norm1(tokens))
        y = block.mlp(block.norm2(tokens))
        if f"blocks.{index}.fc2.up" in tensors:
            down, up, b_down, b_up = (
                tensors[f"blocks.{index}.fc2.{name}"]
                for name in ("down", "up", "down_bias", "up_bias")
            )
            h = y @ down + b_down
            y = y + (h * torch.sigmoid(1.702 * h)) @ up + b_up
        tokens = tokens + y
    return model.norm(tokens)[:, 0]


@pytest.mark.parametrize("adapter", VARIANTS)
def test_it_computes_the_formula(adapter: NOAH) -> None:
    member, x = random_member(vit, adapter), images(3)
    expected = expected_features(member.tensors, x)
    assert close(adapted(vit, member)(x), expected)
    assert not close(vit()(x), expected, 1e-2)


def test_depths_and_sizes_say_where_the_parts_are() -> None:
    def parts(adapter: NOAH) -> set[str]:
        return {".".join(name.split(".")[:3]) for name in started(adapter, vit())}

    def of(*places: tuple[int, str]) -> set[str]:
        return {f"blocks.{index}.{part}" for index, part in places}

    every = [(i, part) for i in range(DEPTH) for part in ("prompts", "qkv", "fc2")]
    assert parts(VARIANTS[0]) == of(*every)
    shorter = [(0, "prompts"), (0, "qkv"), (1, "qkv"), (2, "qkv"), (0, "fc2"), (1, "fc2")]
    assert parts(VARIANTS[1]) == of(*shorter)
    assert parts(VARIANTS[2]) == of((0, "fc2"), (1, "fc2"), (2, "fc2"))
    assert parts(VARIANTS[3]) == of((1, "prompts"), (2, "prompts"), (1, "qkv"), (2, "qkv"))
    assert parts(VARIANTS[4]) == of((0, "fc2"), (1, "fc2"), (2, "fc2"))


def test_starts() -> None:
    adapter = NOAH(prompts=(60, 120, 0), rank=8, hidden=40)
    member = start_member(adapter, find_sites(vit()), 0, 90)
    for name, parameter in member.parameters.items():
        kind, value = name.rsplit(".", 1)[1], parameter.value
        if kind == "prompts":  # Xavier's fan over the supernet's 100 prompts, or more
            fan = 100 if name.startswith("blocks.0") else 120
            assert uniform(value, sqrt(6 / ((fan + 1) * WIDTH)))
        elif "bias" in kind:
            assert not value.any(), name
            assert not parameter.decay
            continue
        else:
            assert kind in ("A", "B", "down", "up", "weight")
            assert normal(value, 0, 0.02)
        assert parameter.decay


def test_dropout_acts_on_prompts_on_loras_input_and_on_the_hidden_activation() -> None:
    model, x = vit().requires_grad_(False), images(2)
    member = random_member(vit, NOAH(prompts=3, rank=2, hidden=4, dropout=0.5, layers=(1,)))
    noise = RandomMasks([member.seed], [0], torch.device("cpu"))

    def mask(*shape: int) -> Tensor:
        drawn = noise.dropout([0.5], [shape])
        assert drawn is not None
        return drawn[0]

    prompts = member.tensors["blocks.1.prompts"]
    tokens = model.blocks[0](model._pos_embed(model.patch_embed(x)))
    dropped = (prompts.repeat(2, 1) * mask(2 * 3, WIDTH)).view(2, 3, WIDTH)
    block, count = model.blocks[1], tokens.shape[1]
    tokens = torch.cat((tokens, dropped), 1)
    a, b = (member.tensors[f"blocks.1.qkv.{name}"] for name in "AB")
    inputs = block.norm1(tokens)
    delta = (inputs.flatten(0, 1) * mask(2 * (count + 3), WIDTH)) @ a @ b
    block.attn.qkv.register_forward_hook(lambda _, x, y: y + delta.view(y.shape))
    tokens = tokens + block.attn(inputs)
    y = block.mlp(block.norm2(tokens))
    down, b_down, up, b_up = (
        member.tensors[f"blocks.1.fc2.{name}"] for name in ("down", "down_bias", "up", "up_bias")
    )
    h = y @ down + b_down
    h = h * torch.sigmoid(1.702 * h) * mask(2 * (count + 3), 4).view(2, count + 3, 4)
    tokens = model.blocks[2]((tokens + y + h @ up + b_up)[:, :count])
    assert close(adapted(vit, member).train()(x), model.norm(tokens)[:, 0])


def test_trials_with_other_parts_do_not_stack() -> None:
    first = NOAH(prompts=2, rank=2, hidden=2)
    others = (
        NOAH(prompts=3, rank=2, hidden=2),
        NOAH(prompts=2, rank=0, hidden=2),
        NOAH(prompts=2, rank=2, hidden=0),
        NOAH(prompts=2, rank=2, hidden=2, rank_depth=1),
        NOAH(prompts=2, rank=2, hidden=(2, 2, 0)),
    )
    for other in others:
        with pytest.raises(AdapterError, match="only trials of one adapter family share a stack"):
            attach(vit(), [first, other])


def test_lora_by_itself_merges() -> None:
    model, x = adapted(vit, random_member(vit, NOAH(prompts=0, rank=3, hidden=0))), images(3)
    expected = model(x)
    assert close(merge(model)(x), expected)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (NOAH(rank_depth=4), "rank_depth is 4; this backbone has 3 blocks"),
        (NOAH(hidden=(1, 2)), "hidden has 2 sizes; this backbone has 3 blocks"),
        (NOAH(prompts=0, rank=0, hidden=0), "changes nothing"),
        (NOAH(prompts=0, rank=0, sites=("mhsa",)), "changes nothing"),
        (NOAH(prompts_depth=1, rank_depth=1, hidden_depth=0, layers=(2,)), "changes nothing"),
    ],
)
def test_what_changes_nothing_is_an_error(adapter: Adapter, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach(vit(), adapter)


def test_sites_are_groups() -> None:
    with pytest.raises(AdapterError, match=r"sites is .*'q'.*allowed"):
        NOAH(sites=("q",))
