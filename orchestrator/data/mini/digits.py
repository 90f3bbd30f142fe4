"""`digits`: scikit-learn's 1,797 scans of hand-written digits (UCI; Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.data.mini.pixels import SIDE, SIZES, Images, Splits

CLASSES = 10
_SEED = 11


def make() -> Splits:
    """800 train, 200 val and the remaining 797 test scans, split at random once and for all."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(scans.target))
    bounds = (SIZES["train"], SIZES["train"] + SIZES["val"])
    images, labels = enlarge(scans.images), scans.target.astype(np.int64)
    parts = np.split(order, bounds)
    return {name: (images[part], labels[part]) for name, part in zip(SIZES, parts, strict=True)}


def enlarge(scans: npt.NDArray[np.floating]) -> Images:
    """Scans (N, 8, 8) with grey values 0…16 → (N, 32, 32, 3), each pixel four by four."""
    grey = np.rint(scans * (255 / 16)).astype(np.uint8)
    factor = SIDE // scans.shape[1]
    large = grey.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.repeat(large[..., None], 3, axis=3)
