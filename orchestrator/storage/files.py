"""Files that are whole or absent, and the fingerprint of a file."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path


def write_whole(path: Path, data: bytes, temporary: Path | None = None) -> None:
    """Write `data` so that `path` shows all of it or does not exist, even after a power cut.

    The bytes go to a temporary file first (in the folder `temporary`, on the same file system;
    default: beside `path`), which is renamed once they are on the disk. `OSError` leaves nothing.
    """
    name = f"{path.stem}.{os.getpid()}.{secrets.token_hex(4)}"
    draft = (temporary or path.parent) / name
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, if they are not there, so that they outlive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries (new names, renames, deletions) on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
