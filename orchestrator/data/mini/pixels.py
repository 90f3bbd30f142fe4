"""Shared by all tasks of `mini`: types, sizes, balanced labels, the pixel grid, colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

SIDE = 32
SIZES: Mapping[str, int] = {"train": 800, "val": 200, "test": 1000}
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Splits = dict[str, tuple[Images, Labels]]


def rendered(
    seed: int, classes: int, draw: Callable[[np.random.Generator, Labels], Floats]
) -> Splits:
    """The splits of a rendered task: balanced labels, and `draw(rng, labels)` in [0, 1]."""
    splits: Splits = {}
    for index, (split, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng([seed, index])
        labels = balanced(rng, count, classes)
        splits[split] = (to_bytes(draw(rng, labels)), labels)
    return splits


def balanced(rng: np.random.Generator, count: int, classes: int) -> Labels:
    """Labels (count,) in random order, every class equally often up to one."""
    return rng.permutation(np.arange(count) % classes).astype(np.int64)


def to_bytes(images: npt.NDArray[np.floating]) -> Images:
    """Values in [0, 1], clipped and rounded to uint8."""
    return np.asarray(np.rint(np.clip(images, 0, 1) * 255), np.uint8)


def grid() -> tuple[Floats, Floats]:
    """x and y (SIDE, SIDE) of the pixels' centres, from 0.5 to 31.5."""
    centre = np.arange(SIDE, dtype=np.float32) + 0.5
    x, y = np.meshgrid(centre, centre)
    return x, y


def two_colours(rng: np.random.Generator, count: int, apart: float = 0.9) -> tuple[Floats, Floats]:
    """Two random colours (count, 3) that differ by at least `apart` summed over the channels."""
    first = rng.random((count, 3))
    second = rng.random((count, 3))
    while (close := np.abs(first - second).sum(1) < apart).any():
        second[close] = rng.random((int(close.sum()), 3))
    return first.astype(np.float32), second.astype(np.float32)
