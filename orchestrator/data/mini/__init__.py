"""The images of the suite `mini`: six tasks of 32×32 RGB images, no download.

`digits` and `patches` come from scikit-learn's scans and photographs; `textures`, `count`,
`location` and `orientation` are rendered. The bytes are always the same: each split of a task has
a fixed seed.
"""

from __future__ import annotations

from orchestrator.data.mini import photographs, rendered
from orchestrator.data.mini.pixels import Splits

_MAKERS = {
    "digits": photographs.make_digits,
    "patches": photographs.make_patches,
    **rendered.MAKERS,
}


def make(task: str) -> Splits:
    """Split name → images (N, 32, 32, 3) uint8 and labels (N,) int64 in [0, classes).

    `train` has 800 images, `val` 200, `test` 1,000 (digits: the remaining 797). KeyError for an
    unknown task.
    """
    return _MAKERS[task]()
