"""LoRA against HF peft's LoRA with the same factors: same output, same gradients."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from adapters import LoRA, attach, attached
from tests.adapters.models import WIDTH, close, images, randomise, vit

peft = pytest.importorskip("peft")
MODULES = {"o": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
RANK, ALPHA = 3, 6.0


def theirs(**options: Any) -> nn.Module:
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, **options)
    model: nn.Module = peft.get_peft_model(vit(), config)
    return model.double()


def layer(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(f"base_model.model.{path}")


def factors(model: nn.Module, path: str) -> tuple[nn.Parameter, nn.Parameter]:
    """peft's A (r, in) and B (out, r)."""
    found = layer(model, path)
    return found.get_parameter("lora_A.default.weight"), found.get_parameter(
        "lora_B.default.weight"
    )


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_proj_fc1_and_fc2() -> None:
    ours = attach(vit().double(), LoRA(rank=RANK, alpha=ALPHA, sites=("o", "fc1", "fc2")))
    randomise(ours)
    tensors = attached(ours).tensors_of(0)
    other = theirs(target_modules=list(MODULES.values()))
    for block in range(3):
        for part, module in MODULES.items():
            a, b = factors(other, f"blocks.{block}.{module}")
            a.data = tensors[f"blocks.{block}.{part}.A"].T.double()
            b.data = tensors[f"blocks.{block}.{part}.B"].T.double()
    assert sum(p.requires_grad for p in other.parameters()) == len(tensors)
    x = images(4).double()
    found, expected = ours(x), other(x)
    assert not close(expected, vit().double()(x), 0.1)
    assert close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for block in range(3):
        for part, module in MODULES.items():
            a, b = factors(other, f"blocks.{block}.{module}")
            own = attached(ours).stacked()
            assert close(gradient(own[f"blocks.{block}.{part}.A"])[0].T, gradient(a))
            assert close(gradient(own[f"blocks.{block}.{part}.B"])[0].T, gradient(b))


@pytest.mark.parametrize("parts", [("q", "v"), ("q", "k", "v")])
def test_fused_qkv(parts: tuple[str, ...]) -> None:
    """peft has one A for the whole of qkv: ours are its block rows, one A of rank r per part.

    peft of rank r·parts, A = [A_q; A_v], B block diagonal, alpha so that s is the same, computes
    the same; its gradients at those blocks are ours.
    """
    ours = attach(vit().double(), LoRA(rank=RANK, alpha=ALPHA, sites=parts))
    randomise(ours)
    tensors, rank = attached(ours).tensors_of(0), RANK * len(parts)
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
    x = images(4).double()
    found, expected = ours(x), other(x)
    assert not close(expected, vit().double()(x), 0.1)
    assert close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    own = attached(ours).stacked()
    for block in range(3):
        a, b = factors(other, f"blocks.{block}.attn.qkv")
        for part in parts:
            for name, theirs_grad in (
                ("A", gradient(a)[spans[part]]),
                ("B", gradient(b)[rows[part], spans[part]]),
            ):
                assert close(gradient(own[f"blocks.{block}.{part}.{name}"])[0].T, theirs_grad)


def test_the_scale_is_alpha_over_rank() -> None:
    layer_of = layer(theirs(target_modules=["attn.proj"]), "blocks.0.attn.proj")
    assert layer_of.scaling["default"] == LoRA(rank=RANK, alpha=ALPHA).scale  # type: ignore[index,operator]
