"""Atomic local files, plain locks, fingerprints, and the error that storage raises."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import InvalidInput, StorageError

_NOT_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What file systems answer to a call that they do not have."""


def write_whole(
    path: Path, data: bytes, temporary: Path | None = None, replace: bool = True
) -> None:
    """Write `data` so that `path` shows all of it or does not exist, even after a power cut.

    The bytes go to a temporary file first (in the folder `temporary`, on the same file system;
    default: beside `path`), which is renamed once they are on the disk. `OSError` leaves nothing.
    Without `replace`, a file that is there already stays, and `FileExistsError` is raised.
    """
    name = f"{path.stem}.{os.getpid()}.{secrets.token_hex(4)}"
    draft = (temporary or path.parent) / name
    try:
        with open(draft, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.rename(draft, path)
        else:
            rename_new(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def rename_new(draft: Path, path: Path) -> None:
    """Rename, but `FileExistsError` if `path` exists: a link is made or refused in one step."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in (*_NOT_HERE, errno.EPERM, errno.EACCES, errno.EMLINK):
            raise
        if path.exists():  # a file system without hard links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(draft, path)
    else:
        draft.unlink()


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
    except OSError as error:
        if error.errno not in _NOT_HERE:  # a file system that syncs files alone
            raise
    finally:
        os.close(handle)


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file, of at most `most` bytes; `OSError` also for what is none:
    reading a pipe would wait for its writer, and a device may never end.
    """
    size = _check_regular(path)
    if most is not None and size > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return path.read_bytes()


def _check_regular(path: Path) -> int:
    """The size of a regular file."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return found.st_size


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a regular file's bytes, read in pieces; `OSError` for what is none."""
    _check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock between processes on the file `path`; its folder is created.

    `waiting` is called once if another process holds the lock. The system releases the lock when
    the process ends, however it ends. The file stays. Errors: see `acquire`.
    """
    make_folder(path.parent)
    try:
        held = acquire(path, 0.0)
    except Timeout:
        waiting()
        held = acquire(path)
    with held:
        yield


def acquire(path: Path, timeout: float = -1) -> AbstractContextManager[object]:
    """Take the lock on the file `path`; `Timeout` after `timeout` seconds, `InvalidInput` if files
    there cannot be locked.
    """
    try:
        return FileLock(path, fallback_to_soft=False).acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as error:
        if error.errno in (*_NOT_HERE, errno.ENOLCK):
            raise unlockable(path.parent, error) from error
        raise


def unlockable(folder: Path, error: OSError) -> InvalidInput:
    """The error of every command that needs a lock in a folder which has none."""
    return InvalidInput(
        f"the folder '{folder}' is on a file system that cannot lock files: {reason(error)}. "
        "Choose one on a local disk or an NFS share with locking."
    )


def reason(error: object) -> str:
    """What an error says, in one line without the full stop; its class if it says nothing."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0].rstrip(".")


def storage_error(action: str, error: Exception, hint: str = "") -> StorageError:
    """The `StorageError` for "cannot `action`", from what the disk or the object store said.

    `hint` is a further sentence, which begins with a space.
    """
    return StorageError(
        f"cannot {action}: {reason(error)}.{hint} Nothing recorded is lost: free "
        "space or permissions, check the connection, then run the same command again."
    )
