"""EFFT against the formulas and starting values."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from adapters import UnsupportedBackbone, attach, attached
from adapters.base import Tensors
from adapters.efft import EFFT1, EFFT2
from adapters.sites import FFN, MHSA
from adapters.trial_axis import RandomMasks
from tests.adapters.dense import check_updates, chosen, edited, layer_rows, stages
from tests.adapters.models import (
    Make,
    every_model,
    images,
    randomise,
    started,
    uniform,
    vit,
)

SELECTIONS = pytest.mark.parametrize(
    ("sites", "layers"),
    [
        (("mhsa", "ffn"), None),
        (("mhsa",), (0, 2)),
        (("ffn",), (1,)),
        (("q", "v"), None),
        (("v", "o", "fc2"), (1, 2)),
        (("o",), None),
        (("k", "fc1"), None),
    ],
)


def one_group(adapter: EFFT1, make: Make, tensors: Tensors) -> dict[tuple[int, str], Tensor]:
    dense = {}
    for prefix, _, width, stage_blocks in stages(make):
        blocks, parts = chosen(adapter, stage_blocks)
        attention = [part for part in parts if part in MHSA]
        index = 0
        for block in blocks:
            for members in (attention, *([part] for part in parts if part in FFN)):
                if not members:
                    continue
                u, core, v = (tensors[prefix + name] for name in ("U", "core", "V"))
                whole = adapter.scale * u @ core[index] @ v
                for place, part in enumerate(members):
                    own = whole[:, place * width : (place + 1) * width] if part in MHSA else whole
                    dense[block, part] = own.T if part == "fc2" else own
                index += 1
        assert index == (len(tensors[f"{prefix}core"]) if blocks else 0)
    return dense


def two_groups(adapter: EFFT2, make: Make, tensors: Tensors) -> dict[tuple[int, str], Tensor]:
    dense = {}
    for prefix, _, _, stage_blocks in stages(make):
        blocks, parts = chosen(adapter, stage_blocks)
        for group, members in (("mhsa", MHSA), ("ffn", FFN)):
            kinds = [part for part in parts if part in members]
            keys = [(block, part) for block in blocks for part in kinds]
            for index, (block, part) in enumerate(keys):
                u, core, v = (tensors[f"{prefix}{group}.{name}"] for name in ("U", "core", "V"))
                own = core[kinds.index(part) if adapter.cores == "shared" else index]
                change = adapter.scale * u @ own @ v
                dense[block, part] = change.T if part == "fc2" else change
    return dense


@every_model
@SELECTIONS
def test_one_group_is_the_formula(
    make: Make, sites: tuple[str, ...], layers: tuple[int, ...] | None
) -> None:
    adapter = EFFT1(rank=3, rank2=2, scale=1.7, sites=sites, layers=layers)
    check_updates(make, adapter, lambda tensors: one_group(adapter, make, tensors))


@every_model
@SELECTIONS
@pytest.mark.parametrize("cores", ["per_layer", "shared"])
def test_two_groups_are_the_formula(
    make: Make, sites: tuple[str, ...], layers: tuple[int, ...] | None, cores: str
) -> None:
    adapter = EFFT2(
        rank=2, ffn_rank=3, ffn_rank2=5, scale=1.7, cores=cores, sites=sites, layers=layers
    )
    check_updates(make, adapter, lambda tensors: two_groups(adapter, make, tensors))


@every_model
@pytest.mark.parametrize("init", ["u", "v"])
def test_one_group_starts_at_zero_in_the_named_factor(make: Make, init: str) -> None:
    tensors = started(EFFT1(rank=8, rank2=12, init=init), make())
    for prefix, ratio, width, blocks in stages(make):
        r1, r2, n = 8 * ratio, 12 * ratio, 3 * len(blocks)
        u, core, v = (tensors.pop(prefix + name) for name in ("U", "core", "V"))
        assert (u.shape, core.shape) == ((width, r1), (n, r1, r2))
        assert v.shape == (r2, 4 * width)
        assert uniform(core, sqrt(6 / (n * (r1 + r2))))
        # The bound of torch's Xavier over the whole core tensor, its slices last.
        xavier = nn.init.xavier_uniform_(torch.empty(r1, r2, n)).abs().max().item()
        assert core.abs().max().item() == pytest.approx(xavier, rel=0.05)
        assert uniform(v, sqrt(6 / (r2 + 4 * width))) if init == "u" else not v.any()
        assert uniform(u, sqrt(6 / (r1 + width))) if init == "v" else not u.any()
    assert not tensors


@every_model
@pytest.mark.parametrize("init", ["vv", "vu", "uv", "uu"])
@pytest.mark.parametrize("cores", ["per_layer", "shared"])
def test_two_groups_start_at_zero_in_the_named_factors(make: Make, init: str, cores: str) -> None:
    adapter = EFFT2(rank=8, ffn_rank=6, ffn_rank2=12, init=init, cores=cores)
    tensors = started(adapter, make())
    for prefix, ratio, width, blocks in stages(make):
        for group, letter, ranks, columns, slices in (
            ("mhsa", init[0], (8, 8), width, 4),
            ("ffn", init[1], (6, 12), 4 * width, 2),
        ):
            r1, r2 = (rank * ratio for rank in ranks)
            n = slices * (len(blocks) if cores == "per_layer" else 1)
            u, core, v = (tensors.pop(f"{prefix}{group}.{name}") for name in ("U", "core", "V"))
            assert (u.shape, core.shape) == ((width, r1), (n, r1, r2))
            assert v.shape == (r2, columns)
            assert uniform(core, sqrt(6 / (n * (r1 + r2))))
            assert uniform(v, sqrt(6 / (r2 + columns))) if letter == "u" else not v.any()
            assert uniform(u, sqrt(6 / (r1 + width))) if letter == "v" else not u.any()
    assert not tensors


@pytest.mark.parametrize(
    ("adapter", "groups"),
    [
        (EFFT1(rank=4, rank2=3, dropout=0.5), {"": (MHSA, ("fc1",), ("fc2",))}),
        (EFFT2(rank=4, dropout=0.5), {"mhsa.": (MHSA,), "ffn.": (("fc1",), ("fc2",))}),
        (
            EFFT2(rank=4, ffn_rank2=3, dropout=0.5, cores="shared"),
            {"mhsa.": (MHSA,), "ffn.": (("fc1",), ("fc2",))},
        ),
    ],
)
def test_dropout_acts_on_the_factors_of_every_module(
    adapter: EFFT1 | EFFT2, groups: dict[str, tuple[tuple[str, ...], ...]]
) -> None:
    """In training ΔW is dp(U) dp(Σ) dp(V), drawn anew in every attention, every fc1, every fc2."""
    model, plain = attach(vit(), adapter, seed=2), vit()
    randomise(model)
    tensors, stack = attached(model).tensors_of(0), attached(model.train())
    stack.prepare(2, torch.float32)
    noise = RandomMasks([2], [0], torch.device("cpu"))

    def mask(*shape: int) -> Tensor:
        drawn = noise.dropout([0.5], [shape])
        assert drawn is not None
        return drawn[0]

    for group, of_block in groups.items():
        u, core, v = (tensors[group + name] for name in ("U", "core", "V"))
        one = isinstance(adapter, EFFT1)  # q, k, v and o have one Σ and share V's columns
        modules = [(block, parts) for block in range(3) for parts in of_block]
        slices = 1 if one else len(of_block[0])
        u_mask, core_mask, v_mask = (
            mask(len(modules), *u.shape), mask(len(modules), slices, *core.shape[1:]),
            mask(len(modules), *v.shape),
        )  # fmt: skip
        order = [p for parts in of_block for p in ([parts[0]] if one else parts)]
        for index, (block, parts) in enumerate(modules):
            for place, part in enumerate(parts):
                picked = order.index(parts[0] if one else part)
                if getattr(adapter, "cores", "per_layer") == "per_layer":
                    picked += block * len(order)
                sigma = core[picked] * core_mask[index, 0 if one else place]
                change = (u * u_mask[index]) @ sigma @ (v * v_mask[index])
                if one and part in MHSA:
                    change = change[:, 32 * place : 32 * (place + 1)]
                change = change.T if part == "fc2" else change
                path, rows = layer_rows(plain, block, part)
                out = plain.get_parameter(f"{path}.weight").shape[0]
                found = edited(model, path, torch.eye(len(change)), out)[:, rows]
                assert torch.allclose(found, change, atol=1e-5), (block, part)


def test_other_hidden_widths() -> None:
    model = vit(mlp_ratio=2)
    with pytest.raises(UnsupportedBackbone, match=r"\(32, 128\) and fc1 \(32, 64\)"):
        attach(model, EFFT1())
    for half, columns in (("mhsa", 128), ("ffn", 64)):
        assert started(EFFT1(rank=2, sites=(half,)), model)["V"].shape == (2, columns)
    assert started(EFFT2(rank=2), model)["ffn.V"].shape == (2, 64)
    attach(model, EFFT1(sites=("ffn",)))(images(1))
