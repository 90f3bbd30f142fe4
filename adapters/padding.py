"""Trials of different shapes in one tensor: zero-padded to the largest, and back."""

from __future__ import annotations

from collections.abc import Sequence

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
