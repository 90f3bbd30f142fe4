"""What a step of K trials trains on: their next images, and how each is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from orchestrator.engine import draws, views
from orchestrator.engine.feed import DeviceSplit, Look

_ATTEMPTS = views.ATTEMPTS
_PER_IMAGE = 4 * _ATTEMPTS + 1  # uniform numbers behind a crop and a flip


def take(splits: Sequence[DeviceSplit], indices: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Images (K·B, 3, S, S) uint8, labels (K·B,) and sizes (K·B, 2), trial after trial.

    `indices` has (B,) for every trial, on the splits' device.
    """
    if all(split is splits[0] for split in splits):
        splits, indices = splits[:1], [torch.cat(list(indices))]
    pairs = list(zip(splits, indices, strict=True))
    images = torch.cat([split.gather(index) for split, index in pairs])
    labels = torch.cat([split.labels[index] for split, index in pairs])
    return images, labels, torch.cat([split.sizes[index] for split, index in pairs])


def augmented(sizes: Tensor, seeds: Tensor, steps: Tensor) -> Look:
    """Crops and flips of the images of K trials in a step, each from its own seed.

    Shapes: sizes (K·B, 2), seeds (K,), steps (K,).
    """
    trials, batch = len(seeds), len(sizes) // len(seeds)
    drawn = draws.uniform(seeds, steps, draws.VIEWS, _PER_IMAGE * batch)
    by_image = drawn.view(trials, _PER_IMAGE, batch).transpose(0, 1).flatten(1)
    crops = by_image[:-1].view(4, _ATTEMPTS, trials * batch)
    return Look(views.random_crop(sizes, crops), by_image[-1] < 0.5)
