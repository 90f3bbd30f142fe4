from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from orchestrator.backbones import HALF, IMAGENET
from orchestrator.engine.feed import DeviceSplit, Normaliser, epoch_order, take
from tests.engine.worlds import CPU, split


def test_images_stay_uint8_and_channels_come_first() -> None:
    original = split("one", 6, 3)
    held = DeviceSplit.of(original, CPU)
    assert held.images.dtype == torch.uint8
    assert held.images.shape == (6, 3, 32, 32)
    assert np.array_equal(held.images[4].permute(1, 2, 0).numpy(), original.images[4])
    assert held.labels.tolist() == original.labels.tolist()
    assert len(held) == 6


def test_normalisation() -> None:
    images = DeviceSplit.of(split("one", 2, 2), CPU).images
    found = Normaliser(IMAGENET, 32, CPU, torch.float32)(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(found, (images / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert Normaliser(IMAGENET, 32, CPU, torch.bfloat16)(images).dtype == torch.bfloat16


def test_images_come_at_the_backbones_size() -> None:
    images = DeviceSplit.of(split("one", 2, 2), CPU).images
    found = Normaliser(HALF, 48, CPU, torch.float32)(images)
    assert found.shape == (2, 3, 48, 48)
    assert found.min() >= -1
    assert found.max() <= 1
    grey = torch.full((1, 3, 32, 32), 51, dtype=torch.uint8)
    resized = Normaliser(HALF, 224, CPU, torch.float32)(grey)
    torch.testing.assert_close(resized, torch.full((1, 3, 224, 224), -0.6))


def test_orders_depend_on_seed_and_epoch() -> None:
    first = epoch_order(50, 3, 2)
    assert sorted(first.tolist()) == list(range(50))
    assert torch.equal(first, epoch_order(50, 3, 2))
    for seed, epoch in ((3, 3), (4, 2), (2, 3)):
        assert not torch.equal(first, epoch_order(50, seed, epoch))


def test_batches_of_trials_come_one_after_the_other() -> None:
    one, two = (DeviceSplit.of(split(name, 9, 3), CPU) for name in ("one", "two"))
    for second in (one, two):
        images, labels = take([one, second], [torch.tensor([1, 4]), torch.tensor([7, 0])])
        assert torch.equal(images[3], second.images[0])
        expected = [one.labels[1], one.labels[4], second.labels[7], second.labels[0]]
        assert labels.tolist() == [int(label) for label in expected]


def test_masked_logits_leave_the_loss_of_the_own_classes() -> None:
    """Padding to the most classes with −inf changes neither the loss nor its gradient."""
    own = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    padded = F.pad(own, (0, 5), value=-torch.inf)
    F.cross_entropy(padded, labels).backward()
    reference = own.detach().requires_grad_()
    F.cross_entropy(reference, labels).backward()
    assert own.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(own.grad, reference.grad)
