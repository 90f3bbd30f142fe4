"""Padding and masks of the trial axis."""

from __future__ import annotations

import pytest
import torch

from adapters.trial_axis import RandomMasks, own_part, pad_stack, step_seed


def test_pad_and_own_part_are_inverse() -> None:
    tensors = [torch.ones(2, 3), torch.full((4, 1), 2.0), torch.zeros(0, 5)]
    stacked = pad_stack(tensors)
    assert stacked.shape == (3, 4, 5)
    assert stacked.sum() == 6 + 8
    for index, tensor in enumerate(tensors):
        assert torch.equal(own_part(stacked, index, tensor.shape), tensor)


def test_masks_depend_on_seed_and_step_alone() -> None:
    cpu = torch.device("cpu")
    alone = RandomMasks([4], [9], cpu).dropout([0.4], [(3, 2)])
    together = RandomMasks([1, 4], [2, 9], cpu).dropout([0.7, 0.4], [(5, 6), (3, 2)])
    assert alone is not None
    assert together is not None
    assert torch.equal(together[1, :3, :2], alone[0])
    assert (together[1, 3:] == 1).all()
    assert RandomMasks([1], [0], cpu).dropout([0.0], [(3, 2)]) is None
    other = RandomMasks([4], [10], cpu).dropout([0.4], [(30, 2)])
    again = RandomMasks([4], [9], cpu).dropout([0.4], [(30, 2)])
    assert other is not None
    assert again is not None
    assert not torch.equal(other, again)


def test_masks_have_their_rates_and_keep_the_mean() -> None:
    noise = RandomMasks([3, 5], [0, 0], torch.device("cpu"))
    masks = noise.dropout([0.2, 0.5], [(200, 200), (200, 200)])
    rows = [[0.0, 0.1], [0.3, 0.3]]
    paths = noise.drop_paths(rows, torch.tensor(rows), 20_000)
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
