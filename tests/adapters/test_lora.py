"""LoRA: ΔW = s·A B written out, and HF peft's LoRA with the same factors."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
from torch import Tensor, nn

from adapters import LoRA, attach, attached
from adapters.base import Tensors
from tests.adapters.dense import PARTS, check_updates, chosen, stages
from tests.adapters.models import (
    DEPTH,
    WIDTH,
    Make,
    close,
    every_model,
    images,
    randomise,
    started,
    uniform,
    vit,
)

MODULES = {"o": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
RANK, ALPHA = 3, 6.0


@every_model
@pytest.mark.parametrize(
    "adapter",
    [LoRA(rank=3), LoRA(rank=3, alpha=6.0, sites=PARTS), LoRA(sites=("k", "fc2"), layers=(0, 2))],
)
def test_the_update_is_the_formula(make: Make, adapter: LoRA) -> None:
    def dense(tensors: Tensors) -> dict[tuple[int, str], Tensor]:
        blocks, parts = chosen(adapter, tuple(i for stage in stages(make) for i in stage[3]))
        scale = 1.0 if adapter.alpha is None else adapter.alpha / adapter.rank
        return {
            (i, p): scale * tensors[f"blocks.{i}.{p}.A"] @ tensors[f"blocks.{i}.{p}.B"]
            for i in blocks
            for p in parts
        }

    check_updates(make, adapter, dense)


def test_it_starts_like_nn_linear() -> None:
    tensors = started(LoRA(rank=8, sites=("q", "fc2")), vit())
    assert len(tensors) == 4 * DEPTH
    for name, tensor in tensors.items():
        if name.endswith(".B"):
            assert not tensor.any()
        else:
            assert uniform(tensor, 1 / sqrt(4 * WIDTH if "fc2" in name else WIDTH))


def theirs(**options: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, **options)
    model: nn.Module = peft.get_peft_model(vit(), config)
    return model.double()


def factors(model: nn.Module, path: str) -> tuple[nn.Parameter, nn.Parameter]:
    """peft's A (r, in) and B (out, r)."""
    layer = model.get_submodule(f"base_model.model.{path}")
    a, b = (layer.get_parameter(f"lora_{name}.default.weight") for name in "AB")
    return a, b


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def compare_outputs(ours: nn.Module, other: nn.Module) -> None:
    """And leave the gradients of both."""
    x = images(4).double()
    found, expected = ours(x), other(x)
    assert not close(expected, vit().double()(x), 0.1)
    assert close(found, expected)
    for output in (found, expected):
        output.square().sum().backward()


def test_peft_on_proj_fc1_and_fc2() -> None:
    ours = attach(vit().double(), LoRA(rank=RANK, alpha=ALPHA, sites=("o", "fc1", "fc2")))
    randomise(ours)
    tensors, own = attached(ours).tensors_of(0), attached(ours).stacked()
    other = theirs(target_modules=list(MODULES.values()))
    pairs = {
        f"blocks.{block}.{part}": factors(other, f"blocks.{block}.{module}")
        for block in range(3)
        for part, module in MODULES.items()
    }
    for name, (a, b) in pairs.items():
        a.data, b.data = (tensors[f"{name}.{kind}"].T.double() for kind in "AB")
    assert sum(p.requires_grad for p in other.parameters()) == len(tensors)
    compare_outputs(ours, other)
    for name, pair in pairs.items():
        for kind, parameter in zip("AB", pair, strict=True):
            assert close(gradient(own[f"{name}.{kind}"])[0].T, gradient(parameter))


@pytest.mark.parametrize("parts", [("q", "v"), ("q", "k", "v")])
def test_peft_on_fused_qkv(parts: tuple[str, ...]) -> None:
    """peft has one A for the whole of qkv: ours are its block rows, one A of rank r per part.

    peft of rank r·parts, A = [A_q; A_v], B block diagonal, alpha so that s is the same, computes
    the same; its gradients at those blocks are ours.
    """
    ours = attach(vit().double(), LoRA(rank=RANK, alpha=ALPHA, sites=parts))
    randomise(ours)
    tensors, own = attached(ours).tensors_of(0), attached(ours).stacked()
    rank = RANK * len(parts)
    other = theirs(
        target_modules=["attn.qkv"],
        rank_pattern={"attn.qkv": rank},
        alpha_pattern={"attn.qkv": ALPHA * len(parts)},
    )
    spans = {part: slice(i * RANK, (i + 1) * RANK) for i, part in enumerate(parts)}
    rows = {part: slice(i * WIDTH, (i + 1) * WIDTH) for i, part in enumerate("qkv")}
    for block in range(3):
        a, b = factors(other, f"blocks.{block}.attn.qkv")
        assert a.shape == (rank, WIDTH)
        b.data.zero_()
        for part in parts:
            a.data[spans[part]] = tensors[f"blocks.{block}.{part}.A"].T.double()
            b.data[rows[part], spans[part]] = tensors[f"blocks.{block}.{part}.B"].T.double()
    compare_outputs(ours, other)
    for block in range(3):
        a, b = factors(other, f"blocks.{block}.attn.qkv")
        for part in parts:
            grad_a, grad_b = gradient(a)[spans[part]], gradient(b)[rows[part], spans[part]]
            assert close(gradient(own[f"blocks.{block}.{part}.A"])[0].T, grad_a)
            assert close(gradient(own[f"blocks.{block}.{part}.B"])[0].T, grad_b)
