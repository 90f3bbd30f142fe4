"""RLRR: W ⊙ (1 + row ⊗ col), b + Δb, and SSF at norms and patches."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from adapters.base import Tensors
from adapters.rlrr import RLRR
from tests.adapters.dense import PARTS, by_module, check_outputs
from tests.adapters.models import Make, every_model, normal, started, swin, uniform, vit

SUBSET = RLRR(sites=("q", "v", "fc2"), layers=(0, 2))


def rescale(model: nn.Module, tensors: Tensors) -> None:
    """Every weight entry by entry."""
    for path, rows, kinds in by_module(model, tensors):
        weight = model.get_parameter(f"{path}.weight")
        if "row" in kinds:
            weight[rows] *= 1 + torch.outer(kinds["row"], kinds["col"])
            if "bias" in kinds:
                model.get_parameter(f"{path}.bias")[rows] += kinds["bias"]
        else:
            bias = model.get_parameter(f"{path}.bias")
            weight.mul_(kinds["scale"].view(-1, *[1] * (weight.dim() - 1)))
            bias.copy_(bias * kinds["scale"] + kinds["shift"])


@every_model
@pytest.mark.parametrize("adapter", [RLRR(), RLRR(init="zero"), SUBSET])
def test_rescales(make: Make, adapter: RLRR) -> None:
    check_outputs(make, adapter, rescale)


def test_what_trains_on_swin() -> None:
    parts = {f"blocks.{b}.{p}.{k}" for b in range(4) for p in PARTS for k in ("row", "col", "bias")}
    reductions = {f"layers.{s}.downsample.reduction.{k}" for s in (1, 2) for k in ("row", "col")}
    plain = [n for n, m in swin().named_modules() if isinstance(m, nn.LayerNorm)]
    scaled = {f"{n}.{k}" for n in (*plain, "patch_embed.proj") for k in ("scale", "shift")}
    assert set(started(RLRR(), swin())) == parts | reductions | scaled


def test_a_layer_without_bias_gets_none() -> None:
    names = set(started(RLRR(), vit(qkv_bias=False)))
    assert {"blocks.0.q.row", "blocks.0.o.bias"} < names
    assert "blocks.0.q.bias" not in names


def test_a_selection_takes_its_parts_and_norms() -> None:
    kinds = {
        **dict.fromkeys(("q", "v", "fc2"), ("row", "col", "bias")),
        **dict.fromkeys(("norm1", "norm2"), ("scale", "shift")),
    }
    wanted = {f"blocks.{b}.{name}.{k}" for b in (0, 2) for name, own in kinds.items() for k in own}
    assert started(SUBSET, vit()).keys() == wanted


@pytest.mark.parametrize("init", ["theirs", "zero"])
def test_starts(init: str) -> None:
    model = vit(embed_dim=192, num_heads=3)
    found: dict[str, list[torch.Tensor]] = {kind: [] for kind in ("row", "scale", "shift")}
    for _, _, kinds in by_module(model, started(RLRR(init=init), model)):
        for kind, tensor in kinds.items():
            if kind == "col":
                assert uniform(tensor, sqrt(6 / tensor.numel()))
            elif kind == "bias":
                assert not tensor.any()
            else:
                found[kind].append(tensor)
    row, scale, shift = (torch.cat(values) for values in found.values())
    if init == "theirs":
        assert uniform(row, sqrt(6))
        assert normal(scale, 1, 0.02)
        assert normal(shift, 0, 0.02)
    else:
        assert not row.any()
        assert not shift.any()
        assert (scale == 1).all()
