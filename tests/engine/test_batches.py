from __future__ import annotations

import torch

from orchestrator.engine.batches import Batch, epoch_order, take, training_batch
from orchestrator.engine.feed import DeviceSplit
from orchestrator.engine.views import centre
from tests.engine.worlds import CPU, split


def held(name: str, view: str = "whole") -> DeviceSplit:
    return DeviceSplit.of([split(name, 9, 3, view)], CPU)


def plain(some: DeviceSplit, indices: list[int]) -> Batch:
    return training_batch(some, torch.tensor(indices), "none", 0, 0)


def test_orders_depend_on_seed_and_epoch() -> None:
    first = epoch_order(50, 3, 2)
    assert sorted(first.tolist()) == list(range(50))
    assert torch.equal(first, epoch_order(50, 3, 2))
    for seed, epoch in ((3, 3), (4, 2), (2, 3)):
        assert not torch.equal(first, epoch_order(50, seed, epoch))


def test_batches_of_trials_come_one_after_the_other() -> None:
    one, two = held("one"), held("two")
    for second in (one, two):
        images, labels = take([one, second], [plain(one, [1, 4]), plain(second, [7, 0])])
        assert images.shape == (4, 3, 32, 32)
        assert torch.equal(images[1], one.gather(torch.tensor([4]))[0])
        assert torch.equal(images[3], second.gather(torch.tensor([0]))[0])
        expected = [one.labels[1], one.labels[4], second.labels[7], second.labels[0]]
        assert labels.tolist() == [int(label) for label in expected]


def test_unaugmented_batches_have_the_view_of_their_split() -> None:
    indices = torch.tensor([5, 2])
    one = held("one", "centre")
    batch = training_batch(one, indices, "none", 3, 4)
    assert torch.equal(batch.boxes, centre(one.sizes[indices]))
    assert not batch.flips.any()
    assert plain(held("one"), [5, 2]).boxes.tolist() == [[0, 0, 1, 1]] * 2


def test_crops_depend_on_seed_and_step_and_on_nothing_else() -> None:
    one, indices = held("one"), torch.arange(9)
    first = training_batch(one, indices, "crop_flip", 3, 4)
    torch.manual_seed(5)
    again = training_batch(held("one", "centre"), indices, "crop_flip", 3, 4)
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.flips, again.flips)
    pixels = first.boxes * one.sizes.repeat(1, 2)  # of the originals, not of the stored squares
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-9)
    for seed, step in ((3, 5), (4, 4), (4, 3)):
        other = training_batch(one, indices, "crop_flip", seed, step)
        assert not torch.equal(first.boxes, other.boxes)
