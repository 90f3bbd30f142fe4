"""A trial must not feel its neighbours: the trial axis without the engine."""

from __future__ import annotations

import pytest
import torch

from adapters import EFFT2, HTA, Adapter, LinearProbe, LoRA, attach, attached
from adapters.noise import Noise, step_seed
from adapters.stack import own_part, pad_stack
from tests.adapters.models import images, train, vit

COMPANIES: dict[str, tuple[Adapter, ...]] = {
    "linear": (LinearProbe(), LinearProbe(), LinearProbe()),
    "lora": (
        LoRA(rank=2, alpha=1.0, dropout=0.3),
        LoRA(rank=5, alpha=20.0),
        LoRA(rank=1, dropout=0.1),
    ),
    "efft2": (
        EFFT2(rank=2, scale=0.1, init="uv", dropout=0.0),
        EFFT2(rank=6, scale=5.0, ffn_rank=3, dropout=0.3),
        EFFT2(rank=3, init="uu", ffn_rank=7),
    ),
    "hta": (HTA(rank=0, dropout=0.2), HTA(rank=3), HTA(rank=1, dropout=0.5)),
}
CLASSES, SEEDS, PATHS = (3, 6, 4), (7, 8, 9), (0.0, 0.3, 0.1)
BATCH, EPOCHS, STEPS, LR = 5, 3, 2, 3e-3


@pytest.mark.parametrize("family", COMPANIES)
def test_alone_equals_in_company(family: str) -> None:
    adapters = COMPANIES[family]
    x = images(BATCH * 3)
    labels = [torch.arange(BATCH) % classes for classes in CLASSES]
    company = attach(vit(), adapters, num_classes=CLASSES, seed=SEEDS, drop_path=PATHS)
    together = torch.tensor(train(company, x, labels, EPOCHS * STEPS, LR))
    logits = company(x).unflatten(0, (3, BATCH))
    for index, adapter in enumerate(adapters):
        alone = attach(
            vit(),
            adapter,
            num_classes=CLASSES[index],
            seed=SEEDS[index],
            drop_path=PATHS[index],
        )
        own = x[index * BATCH : (index + 1) * BATCH]
        losses = torch.tensor(train(alone, own, [labels[index]], EPOCHS * STEPS, LR))
        assert torch.allclose(losses[:, 0], together[:, index], rtol=0, atol=1e-5)
        expected = attached(alone).tensors_of(0)
        for name, tensor in attached(company).tensors_of(index).items():
            assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-5), name
        assert torch.allclose(logits[index, :, : CLASSES[index]], alone(own), rtol=0, atol=1e-5)
        assert torch.isneginf(logits[index, :, CLASSES[index] :]).all()


def test_padding_stays_zero() -> None:
    model = attach(vit(), COMPANIES["efft2"], num_classes=CLASSES, seed=SEEDS, drop_path=0.1)
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
    paths = noise.paths([[0.0, 0.1], [0.3, 0.3]], 20_000)
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
