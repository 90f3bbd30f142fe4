"""Batches of training images: order and views of every trial come from its own seed.

They are drawn on the CPU, so that they are the same on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapters.noise import step_seed
from orchestrator.engine import views
from orchestrator.engine.feed import DeviceSplit

# These keep the streams of orders and views apart from those of masks and initial values.
_ORDER = 0x0DDE5
_VIEWS = 0x51E35


class Batch(NamedTuple):
    """A trial's next images: indices (B,), boxes (B, 4), flips (B,); all on the CPU."""

    indices: Tensor
    boxes: Tensor
    flips: Tensor


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order (count,) in which a trial sees its images in an epoch: from its seed alone.

    Drawn on the CPU, so that it is the same on every device.
    """
    generator = torch.Generator().manual_seed(step_seed(seed ^ _ORDER, epoch))
    return torch.randperm(count, generator=generator)


def training_batch(
    split: DeviceSplit, indices: Tensor, augment: str, seed: int, step: int
) -> Batch:
    """How a trial sees some images in a step: from its seed alone, drawn on the CPU.

    `augment` is `none`, the split's own view, or `crop_flip`.
    """
    sizes = split.sizes[indices]
    if augment == "none":
        boxes = views.view_boxes(split.view, sizes)
        return Batch(indices, boxes, torch.zeros(len(indices), dtype=torch.bool))
    generator = torch.Generator().manual_seed(step_seed(seed ^ _VIEWS, step))
    boxes = views.random_crop(sizes, generator)
    return Batch(indices, boxes, views.flips(len(indices), generator))


def take(splits: Sequence[DeviceSplit], batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Batches of trials, one after the other: images (K·B, 3, S, S) uint8, labels (K·B,)."""
    shared = all(split is splits[0] for split in splits)
    indices = [torch.cat([b.indices for b in batches])] if shared else [b.indices for b in batches]
    pairs = list(zip(splits[:1] if shared else splits, indices, strict=True))
    images = torch.cat([split.gather(index) for split, index in pairs])
    return images, torch.cat([s.labels[index.to(s.labels.device)] for s, index in pairs])
