"""Atomic local files, one reader for all files, plain locks, and the error that storage raises."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from orchestrator.errors import InvalidInput, StorageError

_NOT_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What file systems answer to a call that they do not have."""
MOST_BYTES = 64 * 2**20
"""Of a file that is read as a whole; what people write and what sweeps record is far smaller."""
MOST_DIGITS = 300
"""Of a whole number: all of these fit into a float."""
_NOT_REGULAR = "it is no regular file"


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


def open_regular(path: Path, append: bool = False) -> BufferedReader | FileIO:
    """A regular file, opened to read or to `append`; `OSError` for all else and impossible names.

    A pipe in its place would wait for its other end for ever; a device may have no end.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT if append else os.O_RDONLY
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except ValueError as error:  # a null byte, half a character
        raise OSError(errno.EINVAL, f"no file can have this name ({error})") from error
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.ENXIO, _NOT_REGULAR, str(path)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
    return FileIO(handle, "ab") if append else BufferedReader(FileIO(handle, "rb"))


def read_file(path: Path, most: int | None = MOST_BYTES) -> bytes:
    """The bytes of a regular file; `OSError` as `open_regular`, and for more than `most` bytes."""
    with open_regular(path) as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
        return file.read()


def read_json(path: Path) -> Any:
    """The value in a JSON file; `OSError` as `read_file`, `ValueError` as `parse_json`."""
    return parse_json(read_file(path))


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text; `ValueError` in words for what no person or sweep writes."""
    try:
        return json.loads(
            data,
            parse_int=whole_number,
            parse_constant=_no_constant,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; of a key that is given twice, other readers see another value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]
        raise ValueError(f"given twice: {', '.join(twice):.200}")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def whole_number(text: str, read: Callable[[str], int] = int) -> int:
    """The number that `read` makes of a text; `ValueError` for one of more than `MOST_DIGITS`."""
    if len(text) > MOST_DIGITS + 1 or abs(value := read(text)) >= 10**MOST_DIGITS:
        raise ValueError(f"the number {text:.20}… is too large; allowed: {MOST_DIGITS} digits")
    return value


def check_path(path: str | Path, what: str) -> None:
    """`InvalidInput` for a path that no file or folder can have: too long, a loop of links, …

    `what` names the option or field. Whether something lies there is not asked.
    """
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        refused = (errno.ENAMETOOLONG, errno.ELOOP)
        if isinstance(error, ValueError) or error.errno in refused:
            raise InvalidInput(
                f"{what} '{path!s:.80}' cannot be used: {reason(error)}. Name another path."
            ) from error


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces; `OSError` as `open_regular`."""
    with open_regular(path) as file:
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
