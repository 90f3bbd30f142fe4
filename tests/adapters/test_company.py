"""A trial must not feel its neighbours: the trial axis without the engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from adapters import Adapter, attach, attached
from adapters.arc import ARC
from adapters.bitfit import BitFit
from adapters.bottleneck import AdaptFormer, Bottleneck
from adapters.efft import EFFT1, EFFT2
from adapters.fact import FactTK, FactTT
from adapters.hta import HTA, HTAAdapter
from adapters.linear import LinearProbe
from adapters.lora import LoRA
from adapters.mlp_head import MLPHead
from adapters.noah import NOAH
from adapters.noise import Noise, step_seed
from adapters.rlrr import RLRR
from adapters.ssf import SSF
from adapters.stack import own_part, pad_stack
from adapters.vpt import VPTDeep, VPTShallow
from tests.adapters.models import ADAPTERS, images, swin, train, vit

COMPANIES: tuple[tuple[Adapter, ...], ...] = (
    (LinearProbe(), LinearProbe(), LinearProbe()),
    (LoRA(rank=2, alpha=1.0, dropout=0.3), LoRA(rank=5, alpha=20.0), LoRA(rank=1, dropout=0.1)),
    (
        EFFT1(rank=2, scale=0.1, init="u", dropout=0.0),
        EFFT1(rank=5, rank2=3, scale=5.0, dropout=0.3),
        EFFT1(rank=3, rank2=6, init="u"),
    ),
    (
        EFFT2(rank=2, scale=0.1, init="uv", dropout=0.0),
        EFFT2(rank=6, scale=5.0, ffn_rank=3, dropout=0.3),
        EFFT2(rank=3, init="uu", ffn_rank=7),
    ),
    (FactTT(rank=2, scale=0.1, dropout=0.0), FactTT(rank=5, scale=5.0), FactTT(dropout=0.3)),
    (
        FactTK(rank=2, scale=0.1, dropout=0.0),
        FactTK(rank=5, scale=5.0),
        FactTK(rank=4, dropout=0.3),
    ),
    (HTA(rank=0, dropout=0.2), HTA(rank=3), HTA(rank=1, dropout=0.5)),
    (HTAAdapter(rank=0, dropout=0.2), HTAAdapter(rank=3), HTAAdapter(dropout=0.5)),
    (BitFit(), BitFit(), BitFit()),
    (SSF(), SSF(init="zero"), SSF()),
    (RLRR(), RLRR(init="zero"), RLRR()),
    (ARC(rank=2, dropout=0.0), ARC(rank=6, dropout=0.3), ARC(rank=4)),
    (VPTShallow(prompts=2), VPTShallow(prompts=2, dropout=0.3), VPTShallow(prompts=2, dropout=0.1)),
    (VPTDeep(prompts=2), VPTDeep(prompts=2, dropout=0.3), VPTDeep(prompts=2, dropout=0.1)),
    (Bottleneck(hidden=2), Bottleneck(hidden=5), Bottleneck(hidden=1)),
    (
        AdaptFormer(hidden=2, scale=3.0, dropout=0.3),
        AdaptFormer(hidden=5, dropout=0.0),
        AdaptFormer(hidden=1, scale=0.5),
    ),
    (
        NOAH(prompts=2, rank=2, hidden=5, hidden_depth=2),
        NOAH(prompts=2, rank=4, hidden=1, hidden_depth=2),
        NOAH(prompts=2, rank=1, hidden=3, hidden_depth=2),
    ),
    (MLPHead(hidden=2), MLPHead(hidden=2, dropout=0.0), MLPHead(hidden=2, dropout=0.4)),
)
CASES = [
    pytest.param(make, adapters, id=f"{adapters[0].name}-{make.__name__}")
    for adapters in COMPANIES
    for make in (vit, swin)
    if not (adapters[0].name == "noah" and make is swin)
]
CLASSES, SEEDS, PATHS = (3, 6, 4), (7, 8, 9), (0.0, 0.3, 0.1)
BATCH, EPOCHS, STEPS, LR = 5, 3, 2, 3e-3
# Adam makes whole steps of gradients that are 0 but for rounding (a key's bias, which softmax does
# not see; what batch norm divides out): with its usual ε of 1e-8 the test would compare roundings.
EPS = 1e-3


def test_every_adapter_that_stacks_has_a_company() -> None:
    stacking = {adapter.name for adapter in ADAPTERS if not adapter.lone}
    assert {adapters[0].name for adapters in COMPANIES} == stacking


@pytest.mark.parametrize(("make", "adapters"), CASES)
def test_alone_equals_in_company(
    make: Callable[[], nn.Module], adapters: tuple[Adapter, ...]
) -> None:
    x = images(BATCH * 3)
    labels = [torch.arange(BATCH) % classes for classes in CLASSES]
    company = attach(make(), adapters, num_classes=CLASSES, seed=SEEDS, drop_path=PATHS)
    together = torch.tensor(train(company, x, labels, EPOCHS * STEPS, LR, EPS))
    logits = company(x).unflatten(0, (3, BATCH))
    for index, adapter in enumerate(adapters):
        alone = attach(
            make(),
            adapter,
            num_classes=CLASSES[index],
            seed=SEEDS[index],
            drop_path=PATHS[index],
        )
        own = x[index * BATCH : (index + 1) * BATCH]
        losses = torch.tensor(train(alone, own, [labels[index]], EPOCHS * STEPS, LR, EPS))
        assert torch.allclose(losses[:, 0], together[:, index], rtol=0, atol=1e-5)
        expected = attached(alone).tensors_of(0)
        for name, tensor in attached(company).tensors_of(index).items():
            assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-5), name
        assert torch.allclose(logits[index, :, : CLASSES[index]], alone(own), rtol=0, atol=1e-5)
        assert torch.isneginf(logits[index, :, CLASSES[index] :]).all()


def test_padding_stays_zero() -> None:
    model = attach(vit(), COMPANIES[3], num_classes=CLASSES, seed=SEEDS, drop_path=0.1)
    stack = attached(model)
    train(model, images(15), [torch.arange(5) % 3] * 3, 4)
    for index in range(3):
        for name, tensor in stack.stacked().items():
            own = stack.tensors_of(index)[name]
            assert own.abs().sum() == pytest.approx(tensor[index].abs().sum().item(), rel=1e-6)


def test_pad_and_own_part_are_inverse() -> None:
    tensors = [torch.ones(2, 3), torch.full((4, 1), 2.0), torch.zeros(0, 5)]
    stacked = pad_stack(tensors)
    assert stacked.shape == (3, 4, 5)
    assert stacked.sum() == 6 + 8
    for index, tensor in enumerate(tensors):
        assert torch.equal(own_part(stacked, index, tensor.shape), tensor)


def test_masks_depend_on_seed_and_step_alone() -> None:
    cpu = torch.device("cpu")
    alone = Noise([4], [9], cpu).dropout([0.4], [(3, 2)])
    company = Noise([1, 4], [2, 9], cpu).dropout([0.7, 0.4], [(5, 6), (3, 2)])
    assert alone is not None
    assert company is not None
    assert torch.equal(company[1, :3, :2], alone[0])
    assert (company[1, 3:] == 1).all()
    assert Noise([1], [0], cpu).dropout([0.0], [(3, 2)]) is None
    other = Noise([4], [10], cpu).dropout([0.4], [(30, 2)])
    again = Noise([4], [9], cpu).dropout([0.4], [(30, 2)])
    assert other is not None
    assert again is not None
    assert not torch.equal(other, again)


def test_masks_have_their_rates_and_keep_the_mean() -> None:
    noise = Noise([3, 5], [0, 0], torch.device("cpu"))
    masks = noise.dropout([0.2, 0.5], [(200, 200), (200, 200)])
    rows = [[0.0, 0.1], [0.3, 0.3]]
    paths = noise.paths(rows, torch.tensor(rows), 20_000)
    assert masks is not None
    assert paths is not None
    assert (masks == 0).float().mean((1, 2)).tolist() == pytest.approx([0.2, 0.5], abs=0.01)
    assert masks.mean((1, 2)).tolist() == pytest.approx([1, 1], abs=0.02)
    assert paths.shape == (2, 2, 20_000)  # places, trials, images
    rates = (paths == 0).float().mean(-1).T.tolist()
    assert rates[0] == pytest.approx([0.0, 0.1], abs=0.01)
    assert rates[1] == pytest.approx([0.3, 0.3], abs=0.01)
    assert paths.mean(-1).flatten().tolist() == pytest.approx([1] * 4, abs=0.02)


def test_step_seeds_do_not_meet() -> None:
    seeds = {step_seed(seed, step) for seed in range(100) for step in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 1 << 63 for seed in seeds)
