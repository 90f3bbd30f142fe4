"""Archives (zip and tar) made into folders: whole or absent, and nothing lands outside of them."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import Protocol

from orchestrator.data.download.members import Refused, check_tarred, check_zipped, zipped_path
from orchestrator.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
Tick = Callable[[str, int, int], None]
"""Is told what is going on, how many bytes of it are done, and of how many."""

BLOCK = 4096  # bytes that even the smallest file takes on a disk
CHUNK = 2**20  # bytes between two calls of a tick


class _Opened(Protocol):
    """An archive all of whose members have been looked at and may be written."""

    @property
    def sizes(self) -> list[int]:
        """Bytes of every member."""

    def write(self, folder: Path) -> Iterator[int]:
        """Write the members into `folder`; yields how many bytes it wrote, again and again."""


def is_archive(name: str) -> bool:
    """Whether a file of that name is one that `unpack` takes."""
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """`cifar.tar.gz` → `cifar`."""
    ending = max((end for end in SUFFIXES if name.lower().endswith(end)), key=len, default="")
    return name[: len(name) - len(ending)]


def unpack(archive: Path, target: Path, tick: Tick) -> None:
    """Make the folder `target`, which must not exist, from what is in `archive`.

    It appears by a rename at the end; a process that is killed leaves `.<name>.unpacking` beside
    it, which the next call removes. Two processes must not unpack to the same target.

    Raises `DataError` naming the archive. Members that would land outside, links that point
    outside, devices, encryption and too little space are found before anything is written;
    after any error nothing is left behind.
    """
    draft = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    with _explained(archive, target), _open(archive) as opened:
        require_space(target.parent, opened.sizes, f"unpacking '{archive}'")
        draft.mkdir()
        try:
            _write(opened, draft, f"unpacking {archive.name}", tick)
            os.rename(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def require_space(folder: Path, sizes: Iterable[int], what: str) -> None:
    """`DataError` with both numbers if files of those sizes (bytes) do not fit into `folder`."""
    needed = sum(-(-size // BLOCK) * BLOCK for size in sizes) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{what} needs {needed / 2**20:,.0f} MiB in '{folder}', but only "
            f"{free / 2**20:,.0f} MiB are free. Free some, or name another folder with "
            "--suite-root."
        )


def _write(opened: _Opened, folder: Path, what: str, tick: Tick) -> None:
    done, told, total = 0, 0, sum(opened.sizes)
    for size in opened.write(folder):
        done += size
        if done - told >= CHUNK:
            tick(what, done, total)
            told = done
    tick(what, total, total)


def _open(archive: Path) -> AbstractContextManager[_Opened]:
    return _zip(archive) if archive.name.lower().endswith(".zip") else _tar(archive)


@contextmanager
def _zip(archive: Path) -> Iterator[_Opened]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            check_zipped(info)
        yield _Zip(file)


@contextmanager
def _tar(archive: Path) -> Iterator[_Opened]:
    with tarfile.open(archive) as file:
        check_tarred(file.getmembers())
        _check_end(file)
        yield _Tar(file)


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self.sizes = [info.file_size for info in file.infolist()]

    def write(self, folder: Path) -> Iterator[int]:
        for info in self._file.infolist():
            path = folder / zipped_path(info)
            if info.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open(info) as source, open(path, "wb") as sink:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)
                    yield len(chunk)


class _Tar:
    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file
        self.sizes = [member.size for member in file.getmembers()]

    def write(self, folder: Path) -> Iterator[int]:
        for member in self._file.getmembers():
            self._file.extract(member, folder, filter="data")
            yield member.size


def _check_end(file: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end; a whole archive ends with a block of zeros.

    What follows is read as well: a compressed stream has its checksum at the very end.
    """
    assert file.fileobj is not None
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end: it is cut off, or one of its headers is damaged")
    while file.fileobj.read(CHUNK):
        continue


_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError
)  # fmt: skip


@contextmanager
def _explained(archive: Path, target: Path) -> Iterator[None]:
    """Errors of the libraries as `DataError`."""
    try:
        yield
    except Refused as error:
        raise DataError(
            f"'{archive}' is not unpacked: {error}. Get it again from where it comes from, or "
            "unpack it by hand and name the folder instead."
        ) from error
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # what gzip and bz2 raise for damage
            raise _damaged(archive, error) from error
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise DataError(
            f"cannot unpack '{archive}' to '{target}': {why}. Free some space or make it "
            "writable, or name another folder with --suite-root."
        ) from error


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"'{archive}' is damaged, or no archive of that kind: {error}. Get it again.")
