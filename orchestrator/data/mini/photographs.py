"""The tasks made from scikit-learn's embedded images.

`digits`: 1,797 scans of hand-written digits (UCI; Alpaydin & Kaynak 1998).

`patches`: from which area of two photographs was a 32×32 patch cut? The sample images `china.jpg`
and `flower.jpg` (427×640) are cut into four columns each, the classes. Every column is divided into
bands of rows that alternate between the splits, so that each split covers its top and its bottom
and no pixel is in two splits. Val's patches tile their bands without overlap; the more numerous
ones of train and test are spread over theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.data.mini.pixels import SIDE, SIZES, Labels, Splits, balanced

COLUMNS, WIDTH = 4, 160
"""Areas of a photograph and their width in pixels."""
PATCHES_CLASSES = 2 * COLUMNS
ROWS = {
    "val": ((0, 96), (213, 277)),
    "train": ((96, 160), (277, 357)),
    "test": ((160, 213), (357, 427)),
}
"""First row and the one after the last of each split's bands."""
PATCHES_SEED = 12


def make_digits() -> Splits:
    """800 train, 200 val and the remaining 797 test scans, in a fixed random order."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    order = np.random.default_rng(11).permutation(len(scans.target))
    bounds = (SIZES["train"], SIZES["train"] + SIZES["val"])
    # Grey values 0…16; each pixel of 8×8 is repeated four by four.
    grey = np.rint(scans.images * (255 / 16)).astype(np.uint8)
    large = grey.repeat(4, axis=1).repeat(4, axis=2)
    images, labels = np.repeat(large[..., None], 3, axis=3), scans.target.astype(np.int64)
    parts = np.split(order, bounds)
    return {name: (images[part], labels[part]) for name, part in zip(SIZES, parts, strict=True)}


def make_patches() -> Splits:
    """Patches (N, 32, 32, 3) of the photographs; the labels are the areas."""
    from sklearn.datasets import load_sample_image

    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    splits: Splits = {}
    for index, (name, count) in enumerate(SIZES.items()):
        rng = np.random.default_rng([PATCHES_SEED, index])
        labels = balanced(rng, count, PATCHES_CLASSES)
        corners = corners_of(name, labels, rng)
        cut = [
            photographs[label // COLUMNS][top : top + SIDE, left : left + SIDE]
            for label, (top, left) in zip(labels, corners, strict=True)
        ]
        splits[name] = (np.stack(cut), labels)
    return splits


def corners_of(split: str, labels: Labels, rng: np.random.Generator) -> Labels:
    """Upper left corners (N, 2) of a split's patches in their photographs: row, column."""
    corners = np.empty((len(labels), 2), np.int64)
    places = _all_corners(split)
    for label in range(PATCHES_CLASSES):
        own = np.flatnonzero(labels == label)
        left = np.array([0, WIDTH * (label % COLUMNS)])
        corners[own] = places[_spread(len(places), len(own), rng)] + left
    return corners


def _all_corners(split: str) -> Labels:
    """Every corner (P, 2) that a patch of the split may have inside an area."""
    step = SIDE if split == "val" else 1
    tops = np.concatenate([np.arange(a, b - SIDE + 1, step) for a, b in ROWS[split]])
    lefts = np.arange(0, WIDTH - SIDE + 1, step)
    left, top = np.meshgrid(lefts, tops, indexing="ij")
    return np.stack([top.ravel(), left.ravel()], 1)


def _spread(places: int, count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """`count` of `places` positions, one at random from each of as many equal runs."""
    edges = np.linspace(0, places, count + 1)
    return (edges[:-1] + rng.random(count) * np.diff(edges)).astype(np.int64)
