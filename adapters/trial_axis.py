"""The trial axis: tensors of trials of different shapes in one, and each trial's own randomness.

A mask depends on (trial seed, step) and nothing else: neither on other trials nor on earlier steps.
So a trial that is resumed from a checkpoint, or trained beside others, sees the same masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor


def own_region(index: int, shape: Sequence[int]) -> tuple[int | slice[None, int, None], ...]:
    """Where trial `index`, whose own shape is `shape`, lies in a padded stack (K, …)."""
    return (index, *(slice(size) for size in shape))


def pad_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of equal rank → (K, *largest shape), zeros where a trial's own shape ends."""
    sizes = [max(dims) for dims in zip(*(t.shape for t in tensors), strict=True)]
    stacked = tensors[0].new_zeros((len(tensors), *sizes))
    for index, tensor in enumerate(tensors):
        stacked[own_region(index, tensor.shape)] = tensor
    return stacked


def own_part(stacked: Tensor, index: int, shape: Sequence[int]) -> Tensor:
    """Trial `index` of a padded stack at its own shape: a copy, the inverse of `pad_stack`."""
    return stacked[own_region(index, shape)].detach().clone()


def step_seed(seed: int, step: int) -> int:
    """A seed for one step of one trial (SplitMix64's finaliser over both, 63 bits)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & (mask >> 1)


class RandomMasks:
    """The masks of one forward pass over K trials; `None` stands in for it in evaluation.

    `rates` (K) are those of the trials' dropout, by default none; `drops`: whether one is above 0.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        steps: Sequence[int],
        device: torch.device,
        rates: Sequence[float] = (),
    ) -> None:
        self._device, self.rates, self.drops = device, rates, any(rates)
        self._generators = [
            torch.Generator(device).manual_seed(step_seed(seed, step))
            for seed, step in zip(seeds, steps, strict=True)
        ]
        self._handle = torch.full((), id(self), dtype=torch.int64)
        self._before = torch.zeros(())
        _LIVE[id(self)] = self

    def of(self, activation: Tensor, widths: Tensor | None = None) -> Tensor:
        """The mask of an activation (K, …, features), drawn with the rates.

        Trial k has `widths[k]` features of its own (None: all of them).
        """
        if torch.compiler.is_compiling():
            # As an operator of which the compiler knows no more than the shape. Taking the mask
            # before it as an input keeps the order in which masks are drawn.
            self._before = _mask(activation.detach(), widths, self._before, self._handle)
            return self._before
        sizes = tuple(activation.shape[1:])
        own = [sizes[-1]] * len(activation) if widths is None else widths.tolist()
        mask = self.dropout(self.rates, [(*sizes[:-1], width) for width in own])
        assert mask is not None  # asked for only where something drops
        return mask

    def dropout(self, rates: Sequence[float], shapes: Sequence[tuple[int, ...]]) -> Tensor | None:
        """Inverted-dropout masks (K, *largest shape): 0 or 1/(1-rate), 1 in the padding.

        A trial with rate 0 draws nothing. None if no trial drops anything.
        """
        if not any(rates):
            return None
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        masks = torch.ones((len(rates), *largest), device=self._device)
        for index, (rate, shape) in enumerate(zip(rates, shapes, strict=True)):
            if rate > 0:
                generator = self._generators[index]
                uniform = torch.rand(shape, generator=generator, device=self._device)
                masks[own_region(index, shape)] = (uniform >= rate) / (1 - rate)
        return masks

    def drop_paths(
        self, rates: Sequence[Sequence[float]], table: Tensor, batch: int
    ) -> Tensor | None:
        """Drop-path masks (modules, K, batch): 0 or 1/(1-rate) per image.

        `rates` are K rows of modules, `table` the same (K, modules) on the device. A trial without
        any rate draws nothing. None if no trial drops anything.
        """
        if not any(any(row) for row in rates):
            return None
        uniform = torch.ones((*table.shape, batch), device=self._device)
        for generator, own, row in zip(self._generators, uniform, rates, strict=True):
            if any(row):
                torch.rand(own.shape, generator=generator, device=self._device, out=own)
        rate = table.unsqueeze(-1)
        return ((uniform >= rate) / (1 - rate)).transpose(0, 1)


_LIVE: WeakValueDictionary[int, RandomMasks] = WeakValueDictionary()
"""By the number that compiled code carries in a tensor: generators cannot be its inputs."""


@torch.library.custom_op(
    "adapters::mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _mask(activation: Tensor, widths: Tensor | None, before: Tensor, handle: Tensor) -> Tensor:
    return _LIVE[int(handle)].of(activation, widths)


@_mask.register_fake
def _(activation: Tensor, widths: Tensor | None, before: Tensor, handle: Tensor) -> Tensor:
    return activation.new_empty(activation.shape, dtype=torch.float32)
