"""BitFit: y + Δb at every bias. SSF: γ ⊙ y + β after every operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapters import Adapter, AdapterError
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.per_feature import SSF, BitFit
from tests.adapters.dense import block_paths, by_module, change_output, check_outputs
from tests.adapters.models import DEPTH, Make, every_model, normal, started, swin, vit

SUBSET = BitFit(sites=("q", "v", "fc2"), layers=(0, 2))
SSF_SUBSET = SSF(sites=("k", "fc1"), layers=(1, 2))


def targets(adapter: Adapter, model: nn.Module) -> set[str]:
    return set(adapter.target_modules(adapter.select(find_sites(model))))


def add_to_biases(model: nn.Module, tensors: Tensors) -> None:
    for path, rows, kinds in by_module(model, tensors):
        model.get_parameter(f"{path}.bias")[rows] += kinds["bias"]


@every_model
@pytest.mark.parametrize("adapter", [BitFit(), SUBSET])
def test_bitfit_adds_to_the_biases(make: Make, adapter: BitFit) -> None:
    check_outputs(make, adapter, add_to_biases)


@every_model
def test_every_bias_and_nothing_else_has_a_delta(make: Make) -> None:
    plain, found = make(), dict[str, int]()
    tensors = started(BitFit(), plain)
    for path, _, kinds in by_module(plain, tensors):
        found[f"{path}.bias"] = found.get(f"{path}.bias", 0) + kinds["bias"].numel()
    wanted = {n: p.numel() for n, p in plain.named_parameters() if n.endswith("bias")}
    assert found == wanted
    assert not any("relative" in name for name in found)
    assert not any(tensor.any() for tensor in tensors.values())


def test_a_selection_takes_its_parts_and_norms() -> None:
    halves = {"q": "norm1", "v": "norm1", "fc2": "norm2"}
    names = {*halves, *halves.values()}
    expected = {f"blocks.{block}.{name}.bias" for block in (0, 2) for name in names}
    assert started(SUBSET, vit()).keys() == expected


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"qkv_bias": False}, "attn.qkv"), ({"qkv_bias": False, "proj_bias": False}, "attn.proj")],
)
def test_layers_without_bias_get_none(options: dict[str, Any], missing: str) -> None:
    assert not any(missing in path for path in targets(BitFit(), vit(**options)))


def test_no_bias_at_all_is_an_error() -> None:
    model = vit()
    for block in block_paths(model):
        for name in ("norm2", "mlp.fc1", "mlp.fc2"):
            model.get_submodule(f"{block}.{name}").register_parameter("bias", None)
    with pytest.raises(AdapterError, match=r"sites=\('ffn',\) .* no bias"):
        started(BitFit(sites=("ffn",)), model)


def scale_and_shift(model: nn.Module, tensors: Tensors) -> None:
    for path, rows, kinds in by_module(model, tensors):

        def change(y: Tensor, rows: slice = rows, kinds: Tensors = kinds) -> Tensor:
            y = y.clone()
            y[..., rows] = y[..., rows] * kinds["scale"] + kinds["shift"]
            return y

        change_output(model, path, change)


@every_model
@pytest.mark.parametrize("adapter", [SSF(), SSF(init="zero"), SSF_SUBSET])
def test_ssf_scales_and_shifts(make: Make, adapter: SSF) -> None:
    check_outputs(make, adapter, scale_and_shift)


def test_ssf_is_after_every_operation() -> None:
    inside = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    blocks = {f"blocks.{block}.{name}" for block in range(DEPTH) for name in inside}
    assert targets(SSF(), vit()) == {"patch_embed.proj", "norm", *blocks}
    found = targets(SSF(), swin())
    norms = {n for n, m in swin().named_modules() if isinstance(m, nn.LayerNorm)}
    assert {"patch_embed.norm", "layers.1.downsample.norm", "norm"} < norms < found
    assert "patch_embed.proj" in found
    assert not any("reduction" in path for path in found)
    halves = ("norm1", "attn.qkv", "norm2", "mlp.fc1")
    wanted = {f"blocks.{block}.{name}" for block in (1, 2) for name in halves}
    assert targets(SSF_SUBSET, vit()) == wanted


def test_ssf_starts() -> None:
    theirs, zero = started(SSF(), vit()), started(SSF(init="zero"), vit())
    assert theirs.keys() == zero.keys()
    for kind, mean in (("scale", 1.0), ("shift", 0.0)):
        values = torch.cat([t for n, t in theirs.items() if n.endswith(kind)])
        assert normal(values, mean, 0.02)
        assert all((t == mean).all() for n, t in zero.items() if n.endswith(kind))
