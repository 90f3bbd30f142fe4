"""RLRR: W ⊙ (1 + row ⊗ col), b + Δb, and SSF at norms and patches."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from adapters import attached
from adapters.rlrr import RLRR
from tests.adapters.features import (
    PARTS,
    Make,
    check_merge,
    count,
    every_model,
    grouped,
    pictures,
    place,
    same_distribution,
    shaken,
    sites_of,
    spans,
    started,
    swin,
    vit_b16,
)  # fmt: skip
from tests.adapters.models import close, vit

SUBSET = RLRR(sites=("q", "v", "fc2"), layers=(0, 2))


def dense(make: Make, tensors: dict[str, Tensor]) -> nn.Module:
    """The plain model with every weight rescaled densely, entry by entry."""
    model = make().requires_grad_(False)
    for name, kinds in grouped(tensors).items():
        path, rows = place(model, name)
        weight = model.get_parameter(f"{path}.weight")
        if "row" in kinds:
            factors = 1 + torch.einsum("o,i->oi", kinds["row"], kinds["col"])
            weight[rows] = weight[rows] * factors
            if "bias" in kinds:
                model.get_parameter(f"{path}.bias")[rows] += kinds["bias"]
        else:
            bias = model.get_parameter(f"{path}.bias")
            weight.mul_(kinds["scale"].view(-1, *[1] * (weight.dim() - 1)))
            bias.copy_(bias * kinds["scale"] + kinds["shift"])
    return model


@every_model
@pytest.mark.parametrize("adapter", [RLRR(), RLRR(init="zero"), SUBSET])
def test_rescales(make: Make, adapter: RLRR) -> None:
    model, x = shaken(make, adapter), pictures(make, 2)
    assert close(model(x), dense(make, attached(model).tensors_of(0))(x))


def test_what_trains_on_swin() -> None:
    names = set(started(RLRR(), swin()))
    parts = {f"blocks.{b}.{p}.{k}" for b in range(4) for p in PARTS for k in ("row", "col", "bias")}
    reductions = {f"layers.{s}.downsample.reduction.{k}" for s in (1, 2) for k in ("row", "col")}
    plain = [n for n, m in swin().named_modules() if isinstance(m, nn.LayerNorm)]
    scaled = {f"{n}.{k}" for n in (*plain, "patch_embed.proj") for k in ("scale", "shift")}
    assert names == parts | reductions | scaled


def test_a_layer_without_bias_gets_none() -> None:
    names = set(started(RLRR(), vit(qkv_bias=False)))
    assert "blocks.0.q.row" in names
    assert "blocks.0.o.bias" in names
    assert "blocks.0.q.bias" not in names
    check_merge(vit, RLRR(), qkv_bias=False)


def test_selections() -> None:
    norms = {"q": "norm1", "v": "norm1", "fc2": "norm2"}
    wanted = {f"blocks.{b}.{p}.{k}" for b in (0, 2) for p in norms for k in ("row", "col", "bias")}
    wanted |= {f"blocks.{b}.{n}.{k}" for b in (0, 2) for n in norms.values()
               for k in ("scale", "shift")}  # fmt: skip
    assert started(SUBSET, vit()).keys() == wanted
    assert len(SUBSET.target_modules(sites_of(SUBSET, vit()))) == 2 * 4


def test_counts() -> None:
    model, d, layers = vit_b16(), 768, 12
    assert count(RLRR(), model) == 31 * layers * d + 4 * d == 288_768
    assert "288,768" in str(RLRR.__doc__)
    assert count(RLRR(sites=("mhsa",), layers=(0,)), model) == (4 * 3 + 2) * d


def test_starts() -> None:
    model = vit(embed_dim=192, num_heads=3)
    for init in ("theirs", "zero"):
        groups = grouped(started(RLRR(init=init), model)).items()
        rows, scales, shifts = [], [], []
        for _, kinds in groups:
            if "col" in kinds:
                assert spans(kinds["col"], sqrt(6 / kinds["col"].numel()))
                assert not kinds["bias"].any()
                rows.append(kinds["row"])
            else:
                scales.append(kinds["scale"])
                shifts.append(kinds["shift"])
        row, scale, shift = (torch.cat(values) for values in (rows, scales, shifts))
        if init == "zero":
            assert not row.any()
            assert not shift.any()
            assert (scale == 1).all()
        else:
            assert spans(row, sqrt(6))
            assert same_distribution(scale, 1, 0.02)
            assert same_distribution(shift, 0, 0.02)
