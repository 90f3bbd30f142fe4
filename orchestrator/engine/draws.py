"""Random numbers of training, drawn where they are used.

A number depends on (trial's seed, step or epoch, place) and nothing else: not on the device, the
company or the past. Integers are hashed with SplitMix64's finaliser (Steele et al. 2014), in int64,
whose products wrap as they do in C.
"""

from __future__ import annotations

import torch
from torch import Tensor

# These keep the streams apart from one another, and from those of masks and initial values.
ORDERS = 0x0DDE5
VIEWS = 0x51E35


def uniform(seeds: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    """(K, count) fp64 in [0, 1), from the trials' seeds (K,) and steps (K,), both int64."""
    bits = _bits(seeds, steps, stream, count)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """A permutation (count,) int64: the order in which a trial sees its images in an epoch."""
    seeds, epochs = torch.tensor([[seed], [epoch]], device=device)
    return _bits(seeds, epochs, ORDERS, count)[0].argsort(stable=True)


def _bits(seeds: Tensor, steps: Tensor, stream: int, count: int) -> Tensor:
    state = _mixed(_mixed(seeds ^ stream) + steps * _signed(0xD1B54A32D192ED03))
    places = torch.arange(1, count + 1, device=seeds.device) * _signed(0x9E3779B97F4A7C15)
    return _mixed(state.unsqueeze(1) + places)


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in: int64's own shift brings in the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)
