"""Splits on the device: uint8 images resident, normalised when a batch is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.noise import step_seed
from orchestrator.backbones import Statistics
from orchestrator.data.splits import Split

_ORDER = 0x0DDE5  # keeps the stream of data orders apart from those of masks and initial values


@dataclass(eq=False)
class DeviceSplit:
    """Images (N, 3, H, W) uint8 and labels (N,) int64 on the device; one copy for all trials.

    `features` caches the frozen backbone's output (N, D) by normalisation and precision, for
    trials that train only a head.
    """

    images: Tensor
    labels: Tensor
    features: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, split: Split, device: torch.device) -> DeviceSplit:
        """Copies a split to the device."""
        images = torch.tensor(split.images).permute(0, 3, 1, 2).contiguous()
        return cls(images.to(device), torch.tensor(split.labels).to(device))

    def __len__(self) -> int:
        return self.labels.shape[0]


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order (count,) in which a trial sees its images in an epoch: from its seed alone.

    Drawn on the CPU, so that it is the same on every device.
    """
    generator = torch.Generator().manual_seed(step_seed(seed ^ _ORDER, epoch))
    return torch.randperm(count, generator=generator)


def take(splits: Sequence[DeviceSplit], indices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Batches of trials, one after the other: images (K·B, 3, H, W) uint8, labels (K·B,)."""
    if all(split is splits[0] for split in splits):
        index = torch.cat(list(indices))
        return splits[0].images[index], splits[0].labels[index]
    images = torch.cat([s.images[i] for s, i in zip(splits, indices, strict=True)])
    labels = torch.cat([s.labels[i] for s, i in zip(splits, indices, strict=True)])
    return images, labels


class Normaliser:
    """uint8 images → (x / 255 − mean) / std per channel, at the backbone's size.

    Images of another side are resized bicubically (with antialiasing), as they are taken.
    """

    def __init__(
        self, statistics: Statistics, side: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
        self._scale = (1 / (255 * std)).to(device)
        self._shift = (-mean / std).to(device)
        self._side, self._dtype = side, dtype

    def __call__(self, images: Tensor) -> Tensor:
        """images (N, 3, H, W) uint8 → the backbone's input (N, 3, side, side) in its dtype."""
        pixels = images.float()
        if pixels.shape[-2:] != (self._side, self._side):
            size = (self._side, self._side)
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)
        return (pixels * self._scale + self._shift).to(self._dtype)
