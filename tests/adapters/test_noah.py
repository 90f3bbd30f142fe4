"""NOAH against its three parts written into the block's formula."""

from __future__ import annotations

from math import sqrt

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from adapters import AdapterError, attach, merge
from adapters.backbones import find_sites
from adapters.base import Adapter, Tensors
from adapters.errors import UnsupportedBackbone
from adapters.noah import NOAH
from adapters.sites import Sites
from tests.adapters.models import DEPTH, WIDTH, close, deit, images, vit
from tests.adapters.owed import (
    Make,
    adapted,
    random_member,
    swin,
)

every_model = pytest.mark.parametrize("make", [vit, deit])
VARIANTS: tuple[NOAH, ...] = (
    NOAH(prompts=3, rank=2, hidden=4),
    NOAH(prompts=2, rank=3, hidden=1, prompts_depth=1, rank_depth=3, hidden_depth=2),
    NOAH(prompts=0, rank=0, hidden=3),
    NOAH(prompts=2, rank=2, hidden=2, sites=("mhsa",), layers=(1, 2)),
    NOAH(prompts=2, rank=2, hidden=2, sites=("ffn",)),
)
every_variant = pytest.mark.parametrize("adapter", VARIANTS, ids=range(len(VARIANTS)))


@pytest.fixture(scope="module")
def vit_b16() -> Sites:
    with torch.device("meta"):
        return find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))


def expected_features(make: Make, tensors: Tensors, x: Tensor) -> Tensor:
    """ΔW of LoRA in the weights, prompts appended last and replaced, the adapter on the FFN."""
    model = make()
    tokens = model._pos_embed(model.patch_embed(x))  # type: ignore[operator]
    count = 0
    for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
        tokens = tokens[:, : tokens.shape[1] - count]
        new = tensors.get(f"blocks.{index}.prompts", tokens.new_zeros(0, tokens.shape[-1]))
        tokens, count = torch.cat((tokens, new.expand(len(x), -1, -1)), dim=1), new.shape[0]
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
            y = y + F.gelu(y @ down + b_down) @ up + b_up
        tokens = tokens + y
    return model.norm(tokens)[:, 0]  # type: ignore[no-any-return,operator]


@every_model
@every_variant
def test_it_computes_the_formula(make: Make, adapter: NOAH) -> None:
    member, x = random_member(make, adapter), images(3)
    expected = expected_features(make, member.tensors, x)
    assert close(adapted(make, [member])(x), expected)
    assert not close(make()(x), expected, 1e-2)


def test_depths_and_sizes_say_where_the_parts_are() -> None:
    def parts(adapter: NOAH) -> set[str]:
        return {".".join(name.split(".")[:3]) for name in random_member(vit, adapter).tensors}

    def of(*places: tuple[int, str]) -> set[str]:
        return {f"blocks.{index}.{part}" for index, part in places}

    every = [(i, part) for i in range(DEPTH) for part in ("prompts", "qkv", "fc2")]
    assert parts(VARIANTS[0]) == of(*every)
    shorter = [(0, "prompts"), (0, "qkv"), (1, "qkv"), (2, "qkv"), (0, "fc2"), (1, "fc2")]
    assert parts(VARIANTS[1]) == of(*shorter)
    assert parts(VARIANTS[2]) == of((0, "fc2"), (1, "fc2"), (2, "fc2"))
    assert parts(VARIANTS[3]) == of((1, "prompts"), (2, "prompts"), (1, "qkv"), (2, "qkv"))
    assert parts(VARIANTS[4]) == of((0, "fc2"), (1, "fc2"), (2, "fc2"))


@pytest.mark.parametrize(
    ("adapter", "figure"),
    [
        (NOAH(), 654_456),
        (NOAH(prompts=5, rank=1, hidden=0), 12 * (768 * 5 + 3_072)),
        (NOAH(prompts=1, rank=5, hidden=10), 12 * (768 + 3_072 * 5 + 1_537 * 10 + 768)),
        (
            NOAH(prompts=10, rank=5, hidden=1, prompts_depth=3, rank_depth=6, hidden_depth=9),
            3 * 7_680 + 6 * 15_360 + 9 * (1_537 + 768),
        ),
    ],
)
def test_counts(adapter: NOAH, figure: int, vit_b16: Sites) -> None:
    tensors = adapter.start(adapter.select(vit_b16), torch.Generator())
    assert sum(tensor.numel() for tensor in tensors.values()) == figure


def test_the_docstring_states_the_count() -> None:
    assert all(figure in str(NOAH.__doc__) for figure in ("3,072r", "1,537h", "654,456"))


def test_starts() -> None:
    adapter = NOAH(prompts=50, rank=8, hidden=40)
    tensors = adapter.start(adapter.select(find_sites(vit())), torch.Generator().manual_seed(0))
    for name, tensor in tensors.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("prompts", "down", "up"):
            assert tensor.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(tensor.mean().item()) < 0.002
        elif kind == "A":
            assert 0.9 / sqrt(WIDTH) < tensor.abs().max().item() <= 1 / sqrt(WIDTH)
        else:
            assert not tensor.any(), name


def test_trials_with_other_parts_do_not_stack() -> None:
    first = NOAH(prompts=2, rank=2, hidden=2)
    others = (
        NOAH(prompts=3, rank=2, hidden=2),
        NOAH(prompts=2, rank=0, hidden=2),
        NOAH(prompts=2, rank=2, hidden=0),
        NOAH(prompts=2, rank=2, hidden=2, rank_depth=1),
    )
    for other in others:
        with pytest.raises(AdapterError, match="only trials of one adapter family share a stack"):
            attach(vit(), [first, other])


@every_model
def test_lora_by_itself_merges(make: Make) -> None:
    member, x = random_member(make, NOAH(prompts=0, rank=3, hidden=0)), images(3)
    model = adapted(make, [member])
    expected = model(x)
    assert close(merge(model)(x), expected)
    assert not close(make()(x), expected, 1e-2)


def test_swin_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedBackbone, match=r"looked for timm's VisionTransformer.*windows"):
        attach(swin(), NOAH())


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (NOAH(rank_depth=4), "rank_depth is 4; this backbone has 3 blocks"),
        (NOAH(prompts=0, rank=0, hidden=0), "changes nothing"),
        (NOAH(prompts=0, rank=0, sites=("mhsa",)), "changes nothing"),
        (NOAH(prompts_depth=1, rank_depth=1, hidden_depth=0, layers=(2,)), "changes nothing"),
        (NOAH(layers=(9,)), "do not exist"),
    ],
)
def test_what_changes_nothing_is_an_error(adapter: Adapter, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        attach(vit(), adapter)


def test_sites_are_groups() -> None:
    with pytest.raises(AdapterError, match=r"sites is .*'q'.*allowed"):
        NOAH(sites=("q",))
