"""FacT against the paper's formulas and starting values."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from adapters import UnsupportedBackbone, attach, attached
from adapters.base import Tensors
from adapters.fact import FacT, FactTK, FactTT
from adapters.trial_axis import RandomMasks
from tests.adapters.dense import check_updates, chosen, edited, stages
from tests.adapters.models import Make, every_model, images, randomise, started, uniform, vit

BOTH = pytest.mark.parametrize("cls", [FactTT, FactTK])


def one_slice(tensors: Tensors, prefix: str, index: int) -> Tensor:
    """Σ_i, entry by entry from the formula."""
    if f"{prefix}core" in tensors:
        return tensors[f"{prefix}core"][index]
    c, p = tensors[f"{prefix}C"], tensors[f"{prefix}P"]
    core = torch.zeros(c.shape[:2])
    for a in range(c.shape[2]):
        core += p[index, a] * c[:, :, a]
    return core


def written_out(adapter: FacT, make: Make, tensors: Tensors) -> dict[tuple[int, str], Tensor]:
    """ΔW by block and part."""
    dense = {}
    for prefix, _, _, stage_blocks in stages(make):
        (blocks, parts), index = chosen(adapter, stage_blocks), 0
        for block in blocks:
            for part in parts:
                tiles = []
                for _ in range(4 if part in ("fc1", "fc2") else 1):
                    u, v = tensors[f"{prefix}U"], tensors[f"{prefix}V"]
                    tiles.append(adapter.scale * u @ one_slice(tensors, prefix, index) @ v)
                    index += 1
                dense[block, part] = torch.cat(tiles, dim=0 if part == "fc2" else 1)
        slices = tensors.get(f"{prefix}core", tensors.get(f"{prefix}P"))
        assert (0 if slices is None else len(slices)) == index
    return dense


@BOTH
@every_model
@pytest.mark.parametrize(
    ("sites", "layers"),
    [
        (("mhsa", "ffn"), None),
        (("mhsa",), (0, 2)),
        (("ffn",), (1,)),
        (("q", "v", "fc2"), (1, 2)),
        (("k", "fc1", "o"), None),
    ],
)
def test_the_update_is_the_formula(
    cls: type[FacT], make: Make, sites: tuple[str, ...], layers: tuple[int, ...] | None
) -> None:
    adapter = cls(rank=3, scale=1.7, sites=sites, layers=layers)
    check_updates(make, adapter, lambda tensors: written_out(adapter, make, tensors))


@every_model
@pytest.mark.parametrize("parts", [("mhsa", "ffn"), ("fc2",)])
def test_published_tiles_are_interleaved(make: Make, parts: tuple[str, ...]) -> None:
    """Entry (a, b) of tile t of fc1 is entry (a, c) of slice m, 4c + m = t·r + b; of fc2, whose
    tile is transposed, entry (b, c) with 4c + m = t·r + a."""
    adapter = FactTK(rank=3, scale=1.7, sites=parts, tiles="published")

    def dense(tensors: Tensors) -> dict[tuple[int, str], Tensor]:
        changes = written_out(replace(adapter, tiles="formula"), make, tensors)
        for prefix, _, _, stage_blocks in stages(make):
            u, v, first = tensors[f"{prefix}U"], tensors[f"{prefix}V"], 0
            rank = u.shape[1]
            for block in stage_blocks:
                for part in chosen(adapter, stage_blocks)[1]:
                    if part not in ("fc1", "fc2"):
                        first += 1
                        continue
                    slices = [one_slice(tensors, prefix, first + m) for m in range(4)]
                    first += 4
                    tiles = torch.zeros(4, rank, rank)
                    for t, a, b in itertools.product(range(4), range(rank), range(rank)):
                        row, place = (a, t * rank + b) if part == "fc1" else (b, t * rank + a)
                        tiles[t, a, b] = slices[place % 4][row, place // 4]
                    changes[block, part] = torch.cat(
                        [adapter.scale * u @ tile @ v for tile in tiles], 0 if part == "fc2" else 1
                    )
        return changes

    check_updates(make, adapter, dense)


@BOTH
@every_model
def test_starting_values(cls: type[FacT], make: Make) -> None:
    tensors = started(cls(rank=8), make())
    for prefix, ratio, width, blocks in stages(make):
        rank, count = 8 * ratio, 12 * len(blocks)
        names = ("U", "core", "V") if cls is FactTT else ("U", "C", "P", "V")
        own = {name: tensors.pop(prefix + name) for name in names}
        assert own["U"].shape == (width, rank)
        assert own["V"].shape == (rank, width)
        assert uniform(own["U"], 1 / sqrt(width))
        assert not own["V"].any()
        if cls is FactTT:
            assert own["core"].shape == (count, rank, rank)
            fc2 = torch.arange(count) % 12 >= 8
            assert uniform(own["core"][~fc2], 1 / sqrt(rank))
            assert uniform(own["core"][fc2], 1 / sqrt(4 * rank)), "one layer of 4r inputs"
            continue
        for name, shape in (("C", (rank, rank, rank)), ("P", (count, rank))):
            assert own[name].shape == shape
            fans = nn.init.xavier_uniform_(torch.empty(shape)).abs().max().item()  # torch's
            assert fans == pytest.approx(own[name].abs().max().item(), rel=0.1)
            assert uniform(own[name], sqrt(3) / rank if name == "C" else sqrt(6 / sum(shape)))
    assert not tensors


@BOTH
def test_dropout_acts_on_the_activation_after_the_core(cls: type[FacT]) -> None:
    """fc2: its four tiles are summed before; q and v have their own masks; V sees each draw."""
    model = attach(vit(), cls(rank=3, dropout=0.5, sites=("q", "v", "fc2"), layers=(1,)), seed=2)
    randomise(model)
    tensors, stack = attached(model).tensors_of(0), attached(model.train())
    stack.prepare(2, torch.float32)
    u, v = tensors["U"], tensors["V"]
    sigma = [one_slice(tensors, "", index) for index in range(6)]
    noise = RandomMasks([2], [0], torch.device("cpu"))
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(0))

    def mask(slices: int) -> Tensor:
        drawn = noise.dropout([0.5], [(10, slices, 3)])
        assert drawn is not None
        assert set(drawn.unique().tolist()) == {0.0, 2.0}
        return drawn[0].view(2, 5, slices, 3)

    first = x[..., :32]
    q, k, value = edited(model, "blocks.1.attn.qkv", first, 96).chunk(3, dim=-1)
    drop = mask(2)
    assert torch.allclose(q, (first @ u @ sigma[0] * drop[..., 0, :]) @ v, atol=1e-5)
    assert torch.allclose(value, (first @ u @ sigma[1] * drop[..., 1, :]) @ v, atol=1e-5)
    assert not k.any()
    found = edited(model, "blocks.1.mlp.fc2", x, 32)
    h = sum(tile @ u @ core for tile, core in zip(x.chunk(4, dim=-1), sigma[2:], strict=True))
    assert torch.allclose(found, (h * mask(1)[..., 0, :]) @ v, atol=1e-5)


@BOTH
def test_other_hidden_widths(cls: type[FacT]) -> None:
    model = vit(mlp_ratio=2)
    slices = started(cls(rank=2), model)["core" if cls is FactTT else "P"]
    assert slices.shape[0] == 3 * (4 + 2 * 2)
    attach(model, cls(rank=2))(images(1))
    uneven = vit(mlp_ratio=2.5)
    with pytest.raises(UnsupportedBackbone, match=r"fc1 \(32, 80\) into tiles of 32×32"):
        started(cls(), uneven)
    assert started(cls(sites=("mhsa",)), uneven)
