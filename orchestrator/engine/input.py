"""Input of training and evaluation: splits on a device, each trial's batches, normalisation.

Images stay uint8 until a batch is taken; they are normalised on the device. Every random number is
a hash of (trial's seed, step or epoch, position), so that it depends neither on the device nor on
co-batched trials nor on earlier draws.

Shapes: N images, S stored side, K trials, B batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from orchestrator.backbones import Statistics
from orchestrator.data.prepared.arrow import Images
from orchestrator.data.splits import EncodedSplit, Part, Split
from orchestrator.engine import views
from orchestrator.engine.views import WHOLE, View, evaluation_view

_COPIED = 512  # images copied to an accelerator at once
_READ = 256  # images of a streamed split decoded at once, at least
_PER_IMAGE = 4 * views.ATTEMPTS + 1  # random numbers of a crop and a flip

# Streams of random numbers, distinct from those of masks and initial values.
ORDERS = 0x0DDE5
VIEWS = 0x51E35

Prefixes = dict[tuple[str, int], Tensor]
"""Outputs of the frozen first blocks for all images of a split, by (backbone variant, cut)."""


@dataclass(eq=False)
class DeviceSplit:
    """Images (N, S, S, 3) uint8 in consecutive parts, labels (N,) int64; one copy for all trials.

    On the CPU the parts are views of the memory-mapped files, which all pools of a machine share:
    never write to them. `sizes` (N, 2) are the originals' heights and widths.
    """

    parts: tuple[Tensor, ...]
    labels: Tensor
    sizes: Tensor
    view: str
    prefixes: Prefixes = field(default_factory=dict)
    waited: float = field(default=0.0, init=False)
    """As `StreamedSplit.waited`: never."""

    @classmethod
    def of(cls, splits: Sequence[Split], device: torch.device) -> DeviceSplit:
        """Concatenate splits: viewed on the CPU, copied once to an accelerator."""
        images = [split.images for split in splits]
        on_cpu = device.type == "cpu"
        parts = tuple(map(_as_tensor, images)) if on_cpu else (_copied(images, device),)
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

    def chunks(self, size: int) -> Iterator[tuple[Tensor, View]]:
        """All images (n, 3, S, S) in order, `size` at a time, with their evaluation view."""
        for indices in torch.split(torch.arange(len(self), device=self.sizes.device), size):
            yield self.gather(indices), evaluation_view(self.view, self.sizes[indices])


@dataclass(eq=False)
class StreamedSplit:
    """A split decoded while it is read: the next block of images while the device uses this one.

    `waited` counts the seconds in which its reader had to wait for images.
    """

    source: EncodedSplit
    labels: Tensor
    device: torch.device
    prefixes: Prefixes = field(default_factory=dict)
    waited: float = field(default=0.0, init=False)

    @classmethod
    def of(cls, split: EncodedSplit, device: torch.device) -> StreamedSplit:
        """Only the labels are copied to the device."""
        return cls(split, torch.tensor(split.labels).to(device), device)

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, View]]:
        """As `DeviceSplit.chunks`; at most two blocks of images are in memory."""
        block = size * -(-_READ // size)
        for coming in _read_ahead(self.source, block):
            began = time.perf_counter()
            images, sizes = coming.result()
            self.waited += time.perf_counter() - began
            extents = torch.split(torch.from_numpy(sizes).to(self.device), size)
            for some, own in zip(torch.split(_as_tensor(images), size), extents, strict=True):
                view = evaluation_view(self.source.view, own)
                yield _channels_first(some.to(self.device)), view


AnySplit = DeviceSplit | StreamedSplit


class SplitCache:
    """The splits that a pool's trials read, each held once on the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._splits: dict[tuple[str, ...], DeviceSplit] = {}
        self._streams: dict[str, StreamedSplit] = {}

    def __len__(self) -> int:
        return len(self._splits) + len(self._streams)

    def pixels(self, *splits: Split) -> DeviceSplit:
        """Decoded splits, concatenated."""
        name = tuple(split.fingerprint for split in splits)
        if name not in self._splits:
            self._splits[name] = DeviceSplit.of(splits, self._device)
        return self._splits[name]

    def test(self, split: Split | EncodedSplit) -> AnySplit:
        """A test split, decoded or streamed."""
        if isinstance(split, Split):
            return self.pixels(split)
        if split.fingerprint not in self._streams:
            self._streams[split.fingerprint] = StreamedSplit.of(split, self._device)
        return self._streams[split.fingerprint]

    def release(self, splits: Sequence[AnySplit], in_use: Sequence[AnySplit], drop: bool) -> None:
        """Free the kept tokens of those `splits` that are not in use, and with `drop` the splits.

        Features, one vector per image, stay with a split that is not dropped.
        """
        unused = {id(split) for split in splits} - {id(split) for split in in_use}
        for split in splits:
            if id(split) in unused:
                split.prefixes = {key: p for key, p in split.prefixes.items() if p.dim() == 2}
        if drop:
            self._splits = {n: s for n, s in self._splits.items() if id(s) not in unused}
            self._streams = {n: s for n, s in self._streams.items() if id(s) not in unused}


class Normaliser:
    """uint8 images → (x / 255 − mean) / std per channel, at the backbone's input size."""

    def __init__(
        self, statistics: Statistics, side: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
        self._scale = (1 / (255 * std)).to(device)
        self._shift = (-mean / std).to(device)
        self._whole = torch.tensor([views.WHOLE_BOX], dtype=torch.float64, device=device)
        self._side, self.dtype = side, dtype

    def __call__(self, images: Tensor, view: View = WHOLE) -> Tensor:
        """The backbone's input (N, 3, side, side) in its dtype, from images (N, 3, S, S) uint8."""
        if view.boxes is None and view.flips is None and images.shape[-1] == self._side:
            pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
        else:
            boxes = self._whole if view.boxes is None else view.boxes
            pixels = views.resample(images, boxes, view.flips, self._side)
        return (pixels * self._scale + self._shift).to(self.dtype)


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


def augmented_view(sizes: Tensor, seeds: Tensor, steps: Tensor) -> View:
    """Random crops and flips of the images of K trials in a step, each from its own seed.

    Shapes: sizes (K·B, 2), seeds (K,), steps (K,).
    """
    trials, batch = len(seeds), len(sizes) // len(seeds)
    drawn = uniform(seeds, steps, VIEWS, _PER_IMAGE * batch)
    by_image = drawn.view(trials, _PER_IMAGE, batch).transpose(0, 1).flatten(1)
    crops = by_image[:-1].view(4, views.ATTEMPTS, trials * batch)
    return View(views.random_crop(sizes, crops), by_image[-1] < 0.5)


def epoch_order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """A permutation (count,) int64: the order in which a trial reads its images in an epoch."""
    seeds, epochs = torch.tensor([[seed], [epoch]], device=device)
    return _bits(seeds, epochs, ORDERS, count)[0].argsort(stable=True)


def uniform(seeds: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """(K, count) fp64 in [0, 1), from the trials' seeds (K,) and steps (K,), both int64."""
    bits = _bits(seeds, steps, stream, count)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def _bits(seeds: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """SplitMix64's finaliser (Steele et al. 2014) in int64, whose products wrap as they do in C."""
    state = _mixed(_mixed(seeds ^ stream) + steps * _signed(0xD1B54A32D192ED03))
    positions = torch.arange(1, count + 1, device=seeds.device) * _signed(0x9E3779B97F4A7C15)
    return _mixed(state.unsqueeze(1) + positions)


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical right shift: int64's own is arithmetic."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)


def _read_ahead(split: EncodedSplit, block: int) -> Iterator[Future[Part]]:
    """All parts of `block` images in order; a thread decodes the next while one is used."""
    with ThreadPoolExecutor(1) as reader:
        coming: Future[Part] | None = None
        for start in range(0, len(split), block):
            following = reader.submit(split.part, start, start + block)
            if coming is not None:
                yield coming
            coming = following
        if coming is not None:
            yield coming


def _as_tensor(images: Images) -> Tensor:
    """A tensor over the same memory, which may be read-only (`torch.from_numpy` would warn)."""
    return from_dlpack(images)


def _copied(parts: Sequence[Images], device: torch.device) -> Tensor:
    """One tensor on the device, filled slice by slice: no second copy on the host."""
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    copy = torch.empty(shape, dtype=torch.uint8, device=device)
    slices = (piece for part in parts for piece in torch.split(_as_tensor(part), _COPIED))
    start = 0
    for piece in slices:
        copy[start : start + len(piece)] = piece
        start += len(piece)
    return copy


def _channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)
