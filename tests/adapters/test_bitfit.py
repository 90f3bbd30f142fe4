"""BitFit: y + Δb at every bias."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from adapters import AdapterError
from adapters.per_feature import BitFit
from adapters.stack import Stack
from tests.adapters.features import (
    Make,
    block_paths,
    check_merge,
    count,
    every_model,
    grouped,
    pictures,
    place,
    shaken,
    sites_of,
    started,
    vit_b16,
)  # fmt: skip
from tests.adapters.models import close, vit

SUBSET = BitFit(sites=("q", "v", "fc2"), layers=(0, 2))


def dense(make: Make, tensors: dict[str, Tensor]) -> nn.Module:
    """The plain model with Δb added to its own biases."""
    model = make()
    for name, kinds in grouped(tensors).items():
        path, rows = place(model, name)
        model.get_parameter(f"{path}.bias").data[rows] += kinds["bias"]
    return model


@every_model
@pytest.mark.parametrize("adapter", [BitFit(), SUBSET])
def test_adds_to_the_biases(make: Make, adapter: BitFit) -> None:
    model, x = shaken(make, adapter), pictures(make, 2)
    stack = model.get_submodule("adapter")
    assert isinstance(stack, Stack)
    assert close(model(x), dense(make, stack.tensors_of(0))(x))


@every_model
def test_every_bias_and_nothing_else_has_a_delta(make: Make) -> None:
    plain = make()
    wanted = {n: p for n, p in plain.named_parameters() if n.endswith("bias")}
    found: dict[str, int] = {}
    for name, tensor in started(BitFit(), plain).items():
        path, _ = place(plain, name.removesuffix(".bias"))
        found[f"{path}.bias"] = found.get(f"{path}.bias", 0) + tensor.numel()
        assert not tensor.any()
    assert found == {name: bias.numel() for name, bias in wanted.items()}
    assert not any("relative" in name for name in found)


def test_counts() -> None:
    model, d, layers = vit_b16(), 768, 12
    assert count(BitFit(), model) == 11 * layers * d + 2 * d == 102_912
    assert "102,912" in str(BitFit.__doc__)
    assert count(BitFit(sites=("mhsa",)), model) == layers * 5 * d
    assert count(BitFit(sites=("q", "v"), layers=(3,)), model) == 2 * d + d


def test_a_selection_takes_its_parts_and_norms() -> None:
    halves = {"q": "norm1", "v": "norm1", "fc2": "norm2"}
    parts = {f"blocks.{block}.{name}.bias" for block in (0, 2) for name in halves}
    norms = {f"blocks.{block}.{name}.bias" for block in (0, 2) for name in halves.values()}
    assert started(SUBSET, vit()).keys() == parts | norms


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"qkv_bias": False}, "attn.qkv"), ({"qkv_bias": False, "proj_bias": False}, "attn.proj")],
)
def test_layers_without_bias_get_none(options: dict[str, Any], missing: str) -> None:
    assert not any(
        missing in path for path in BitFit().target_modules(sites_of(BitFit(), vit(**options)))
    )
    check_merge(vit, BitFit(), **options)


def test_no_bias_at_all_is_an_error() -> None:
    model = vit()
    for block in block_paths(model):
        norm = model.get_submodule(f"{block}.norm2")
        assert isinstance(norm, nn.LayerNorm)
        norm.register_parameter("bias", None)
        for name in ("fc1", "fc2"):
            layer = model.get_submodule(f"{block}.mlp.{name}")
            assert isinstance(layer, nn.Linear)
            layer.register_parameter("bias", None)
    with pytest.raises(AdapterError, match=r"sites=\('ffn',\) .* no bias"):
        sites_of(BitFit(sites=("ffn",)), model)
