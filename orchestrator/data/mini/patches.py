"""`patches`: from which area of two real photographs was a 32×32 patch cut?

scikit-learn's sample images `china.jpg` and `flower.jpg` (427×640) are cut into areas, the classes.
Each area is divided into three bands of rows, for train, test and val, so that no pixel is in two
splits. Patches of a split overlap each other as little as their number allows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.data.mini.pixels import SIDE, SIZES, Labels, Splits, balanced

ACROSS, DOWN = 4, 1
"""Areas of a photograph: four columns, one row."""
CLASSES = 2 * ACROSS * DOWN
_SEED = 12
_SHARES = {"train": 0.45, "test": 0.35, "val": 0.2}


class Band(NamedTuple):
    """Rows and columns [first, last) of one split's part of an area of photograph `photo`."""

    photo: int
    top: int
    bottom: int
    left: int
    right: int


def make() -> Splits:
    """Patches (N, 32, 32, 3) as they are in the photographs, labels the areas."""
    photographs = _photographs()
    splits: Splits = {}
    for index, (name, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng([_SEED, index])
        labels = balanced(rng, count, CLASSES)
        corners = corners_of(name, labels, rng)
        cut = [
            photographs[bands(name)[label].photo][top : top + SIDE, left : left + SIDE]
            for label, (top, left) in zip(labels, corners, strict=True)
        ]
        splits[name] = (np.stack(cut), labels)
    return splits


def corners_of(split: str, labels: Labels, rng: np.random.Generator) -> Labels:
    """Upper left corners (N, 2) of the patches of a split: spread evenly over their band."""
    corners = np.empty((len(labels), 2), np.int64)
    for label, band in enumerate(bands(split)):
        mine = np.flatnonzero(labels == label)
        rows = np.arange(band.top, band.bottom - SIDE + 1)
        columns = np.arange(band.left, band.right - SIDE + 1)
        places = _spread(len(rows) * len(columns), len(mine), rng)
        corners[mine] = np.stack([rows[places % len(rows)], columns[places // len(rows)]], 1)
    return corners


def bands(split: str) -> list[Band]:
    """The band of each class in a split."""
    height, width = 427, 640
    found = []
    for photo in range(2):
        for area in range(ACROSS * DOWN):
            row, column = divmod(area, ACROSS)
            top, bottom = (height * edge // DOWN for edge in (row, row + 1))
            left, right = (width * edge // ACROSS for edge in (column, column + 1))
            first, last = _rows(split, top, bottom)
            found.append(Band(photo, first, last, left, right))
    return found


def _rows(split: str, top: int, bottom: int) -> tuple[int, int]:
    """The rows of a split inside an area."""
    start = top
    for name, share in _SHARES.items():
        end = bottom if name == "val" else start + round(share * (bottom - top))
        if name == split:
            return start, end
        start = end
    raise KeyError(split)


def _spread(places: int, count: int, rng: np.random.Generator) -> Labels:
    """`count` of `places` positions, one at random from each of equal runs."""
    edges = np.linspace(0, places, count + 1)
    return (edges[:-1] + rng.random(count) * np.diff(edges)).astype(np.int64)


def _photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_image

    return [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
