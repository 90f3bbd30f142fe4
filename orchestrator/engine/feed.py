"""Splits as the engine reads them: uint8 until a batch is taken, normalised on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from orchestrator.backbones import Statistics
from orchestrator.data.prepared.arrow import Images
from orchestrator.data.splits import EncodedSplit, Part, Split
from orchestrator.engine import views

_COPIED = 512  # images copied to an accelerator at once
_READ = 256  # images of a streamed split decoded at once, at least

Prefixes = dict[tuple[str, int], Tensor]
"""What the frozen first blocks make of all images, by backbone (precision, …) and cut."""


class Look(NamedTuple):
    """What is seen of N images: boxes (N, 4) or (1, 4), None: all of them; flips (N,), None: none.

    On the images' device.
    """

    boxes: Tensor | None = None
    flips: Tensor | None = None


WHOLE = Look()
"""All of every image, as it is."""


class Chunk(NamedTuple):
    """Consecutive images (n, 3, S, S) uint8 on the device, and how they are looked at."""

    images: Tensor
    look: Look


@dataclass(eq=False)
class DeviceSplit:
    """Images (N, S, S, 3) uint8 in consecutive parts, labels (N,) int64; one copy for all trials.

    On the CPU the parts view the mapped files, so that all pools of a machine share one copy:
    nothing may ever write to them. `sizes` (N, 2) are the originals' heights and widths.
    """

    parts: tuple[Tensor, ...]
    labels: Tensor
    sizes: Tensor
    view: str
    prefixes: Prefixes = field(default_factory=dict)

    @classmethod
    def of(cls, splits: Sequence[Split], device: torch.device) -> DeviceSplit:
        """Splits one after the other: viewed on the CPU, copied once to an accelerator."""
        images = [split.images for split in splits]
        on_cpu = device.type == "cpu"
        parts = tuple(map(_viewed, images)) if on_cpu else (_copied(images, device),)
        labels = torch.from_numpy(np.concatenate([split.labels for split in splits]))
        sizes = torch.from_numpy(np.concatenate([split.sizes for split in splits]))
        return cls(parts, labels.to(device), sizes.to(device), splits[0].view)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Tensor) -> Tensor:
        """Images (B, 3, S, S) at indices (B,)."""
        if len(self.parts) == 1:
            return _channels_first(self.parts[0][indices])
        found = self.parts[0].new_empty((len(indices), *self.parts[0].shape[1:]))
        for part, end in zip(self.parts, accumulate(map(len, self.parts)), strict=True):
            own = (indices >= end - len(part)) & (indices < end)
            found[own] = part[indices[own] - (end - len(part))]
        return _channels_first(found)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All images in order, `size` at a time, as an evaluation sees them."""
        for indices in torch.split(torch.arange(len(self), device=self.sizes.device), size):
            yield Chunk(self.gather(indices), self.look(self.sizes[indices]))

    def look(self, sizes: Tensor) -> Look:
        """How an evaluation sees images of these original sizes (n, 2)."""
        return Look(views.view_boxes(self.view, sizes))


@dataclass(eq=False)
class StreamedSplit:
    """A split that is decoded as it is read, the next images while the device has these."""

    source: EncodedSplit
    labels: Tensor
    device: torch.device
    prefixes: Prefixes = field(default_factory=dict)

    @classmethod
    def of(cls, split: EncodedSplit, device: torch.device) -> StreamedSplit:
        """Holds no images, only the labels."""
        return cls(split, torch.tensor(split.labels).to(device), device)

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """As `DeviceSplit.chunks`; never more than two blocks of images are in memory."""
        block = size * -(-_READ // size)
        for images, sizes in _read_ahead(self.source, block):
            extents = torch.split(torch.from_numpy(sizes).to(self.device), size)
            for some, own in zip(torch.split(_viewed(images), size), extents, strict=True):
                boxes = views.view_boxes(self.source.view, own)
                yield Chunk(_channels_first(some.to(self.device)), Look(boxes))


class Normaliser:
    """uint8 images → (x / 255 − mean) / std per channel, at the backbone's size."""

    def __init__(
        self, statistics: Statistics, side: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
        self._scale = (1 / (255 * std)).to(device)
        self._shift = (-mean / std).to(device)
        self._whole = torch.tensor([views.WHOLE], dtype=torch.float64, device=device)
        self._side, self.dtype = side, dtype

    def __call__(self, images: Tensor, look: Look = WHOLE) -> Tensor:
        """The backbone's input (N, 3, side, side) in its dtype, from images (N, 3, S, S) uint8."""
        if look.boxes is None and look.flips is None and images.shape[-1] == self._side:
            pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
        else:
            boxes = self._whole if look.boxes is None else look.boxes
            pixels = views.resample(images, boxes, look.flips, self._side)
        return (pixels * self._scale + self._shift).to(self.dtype)


def _read_ahead(split: EncodedSplit, block: int) -> Iterator[Part]:
    """All parts of `block` images in order; a thread decodes the next while one is used."""
    with ThreadPoolExecutor(1) as reader:
        coming: Future[Part] | None = None
        for start in range(0, len(split), block):
            following = reader.submit(split.part, start, start + block)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _viewed(images: Images) -> Tensor:
    """A tensor over the same memory, read-only as it may be (`torch.from_numpy` would warn)."""
    return from_dlpack(images)


def _copied(parts: Sequence[Images], device: torch.device) -> Tensor:
    """One tensor on the device, filled slice by slice: no second copy on the host."""
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    copy = torch.empty(shape, dtype=torch.uint8, device=device)
    slices = (piece for part in parts for piece in torch.split(_viewed(part), _COPIED))
    start = 0
    for piece in slices:
        copy[start : start + len(piece)] = piece
        start += len(piece)
    return copy


def _channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)
