"""Shared by all tasks of `mini`: types, sizes and balanced labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

SIDE = 32
SIZES: Mapping[str, int] = {"train": 800, "val": 200, "test": 1000}
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Splits = dict[str, tuple[Images, Labels]]


def balanced(rng: np.random.Generator, count: int, classes: int) -> Labels:
    """Labels (count,) in random order, every class equally often up to one."""
    return rng.permutation(np.arange(count) % classes).astype(np.int64)
