"""Makers of the embedded suite `mini`: six tasks of 32×32 RGB images, no download.

`digits` and `patches` come from scikit-learn's real scans and photographs, `textures`, `count`,
`location` and `orientation` are rendered. The same bytes every time: each split of a task has its
own fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.data.mini import digits, patches, scenes, textures
from orchestrator.data.mini.pixels import Splits

NUM_CLASSES: Mapping[str, int] = {
    "digits": digits.CLASSES,
    "patches": patches.CLASSES,
    "textures": textures.CLASSES,
    "count": scenes.COUNT_CLASSES,
    "location": scenes.LOCATION_CLASSES,
    "orientation": scenes.ORIENTATION_CLASSES,
}

_MAKERS: Mapping[str, Callable[[], Splits]] = {
    "digits": digits.make,
    "patches": patches.make,
    "textures": textures.make,
    "count": scenes.make_count,
    "location": scenes.make_location,
    "orientation": scenes.make_orientation,
}


def make(task: str) -> Splits:
    """Split name → images (N, 32, 32, 3) uint8 and labels (N,) int64 in [0, classes).

    `train` has 800 images, `val` 200, `test` 1,000 (digits: the remaining 797). KeyError for an
    unknown task.
    """
    return _MAKERS[task]()
