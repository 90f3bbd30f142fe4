"""Images: found on disk, checked, prepared once, and opened as splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with what is being done (or the task's name), how much is done, and the total."""


def require_space(folder: Path, size: int, what: str, option: str) -> None:
    """`DataError` unless about `size` bytes are free where a folder is or will be.

    The message says that `what` needs them, and names the `option` for another folder.
    """
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    needed, free = size + 2**20, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{what} needs {needed / 2**20:,.0f} MiB in '{folder}', but only "
            f"{free / 2**20:,.0f} MiB are free. Free some, or name another folder with {option}."
        )
