"""Archives (zip and tar) unpacked into folders: whole or absent, nothing outside the folder.

Archives are not trusted: every member is checked before anything is written.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from orchestrator.data import Progress, require_space
from orchestrator.data.download.members import (
    MemberNames,
    Refused,
    TooLarge,
    check_expansion,
    check_tar_members,
    check_zip_member,
    zip_path,
)
from orchestrator.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
BLOCK = 4096  # bytes that even the smallest file takes on a disk
CHUNK = 2**20  # bytes between two calls of `progress`


class _Opened(NamedTuple):
    """An archive whose members have all been checked."""

    sizes: list[int]
    """Bytes of every member."""
    write: Callable[[Path], Iterator[int]]
    """Writes the members into a folder; yields the bytes written since the last yield."""


def is_archive(name: str) -> bool:
    """Whether `unpack` accepts a file of that name."""
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """`cifar.tar.gz` → `cifar`."""
    ending = max((end for end in SUFFIXES if name.lower().endswith(end)), key=len, default="")
    return name[: len(name) - len(ending)]


def unpack(archive: Path, target: Path, progress: Progress, *, updates: bool = False) -> None:
    """Unpack `archive` into the folder `target`, which must not exist.

    With `updates` a file of a tar may be there twice: the later one counts.

    The folder appears by a rename at the end; a killed process leaves `.<name>.unpacking` beside
    it, which the next call removes. Two processes must not unpack to the same target.

    Raises `DataError` naming the archive. Members that would land outside, links that point
    outside or to nothing, devices, names that occur twice, encryption, sizes that no honest archive
    has and too little space are found before anything is written; an error leaves nothing behind.
    """
    draft = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(draft, ignore_errors=True)
    is_zip = archive.name.lower().endswith(".zip")
    content = _open_zip(archive) if is_zip else _open_tar(archive, updates)
    with _errors_named(archive, target), content as opened:
        require_space_for(opened.sizes, target.parent, f"unpacking '{archive}'")
        draft.mkdir()
        try:
            _write(opened, draft, f"unpacking {archive.name}", progress)
            os.rename(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def require_space_for(files: Iterable[int], folder: Path, what: str) -> None:
    """`DataError` with both numbers if files of those sizes (bytes) do not fit into `folder`."""
    require_space(folder, sum(-(-size // BLOCK) * BLOCK for size in files), what, "--suite-root")


def _write(opened: _Opened, folder: Path, what: str, progress: Progress) -> None:
    done, reported, total = 0, 0, sum(opened.sizes)
    for size in opened.write(folder):
        done += size
        if done - reported >= CHUNK:
            progress(what, done, total)
            reported = done
    progress(what, total, total)


@contextmanager
def _open_zip(archive: Path) -> Iterator[_Opened]:
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        names = MemberNames()
        for info in infos:
            check_zip_member(info)
            names.add(zip_path(info), info.filename, folder=info.is_dir())
        packed = archive.stat().st_size
        if sum(info.compress_size for info in infos) > packed:
            raise zipfile.BadZipFile("its members overlap")
        check_expansion("it", sum(info.file_size for info in infos), packed)

        def write(folder: Path) -> Iterator[int]:
            for info in infos:
                path = folder / zip_path(info)
                if info.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with file.open(info) as source, open(path, "wb") as sink:
                    while chunk := source.read(CHUNK):
                        sink.write(chunk)
                        yield len(chunk)
                    if sink.tell() != info.file_size:
                        raise zipfile.BadZipFile(
                            f"its member '{info.filename}' has {sink.tell()} bytes and claims "
                            f"{info.file_size}"
                        )

        yield _Opened([info.file_size for info in infos], write)


@contextmanager
def _open_tar(archive: Path, updates: bool) -> Iterator[_Opened]:
    with (
        _decompressed(archive) as stream,
        # tarfile reads whole extended headers into memory, whatever size they claim.
        tarfile.open(
            fileobj=cast(Any, _Bounded(stream, archive.stat().st_size)), mode="r:"
        ) as file,
    ):
        members = file.getmembers()
        check_tar_members(members, updates)
        _check_tar_end(file)
        # Of a sparse file only the parts that are not zero lie in the archive.
        total = sum(member.size for member in members)
        check_expansion("it", total, archive.stat().st_size)

        def write(folder: Path) -> Iterator[int]:
            for member in members:
                file.extract(member, folder, filter="data")
                yield member.size

        yield _Opened([member.size for member in members], write)


def _decompressed(archive: Path) -> IO[bytes]:
    """The archive as a stream of what is in it, by its first bytes."""
    kinds: dict[bytes, Callable[..., Any]] = {
        b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open
    }  # fmt: skip
    with open(archive, "rb") as file:
        start = file.read(6)
    opener = next((kinds[magic] for magic in kinds if start.startswith(magic)), open)
    return cast(IO[bytes], opener(archive, "rb"))


class _Bounded:
    """A stream that is refused before it is read further than an honest archive goes."""

    def __init__(self, stream: IO[bytes], packed: int) -> None:
        self._stream, self._packed = stream, packed
        self.tell, self.close = stream.tell, stream.close

    def read(self, size: int) -> bytes:
        check_expansion("it", self.tell() + size, self._packed)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        check_expansion("it", offset, self._packed)
        return self._stream.seek(offset)


def _check_tar_end(file: tarfile.TarFile) -> None:
    """`ReadError` unless the archive ends with a block of zeros: tarfile takes a damaged header
    for the end. The rest is read too: a compressed stream has its checksum at the very end.
    """
    assert file.fileobj is not None
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end: it is cut off, or one of its headers is damaged")
    while file.fileobj.read(tarfile.BLOCKSIZE):
        continue


_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError,
    NotImplementedError, ValueError, LookupError, OverflowError, RuntimeError,
)  # fmt: skip
"""What the libraries raise for files of random bytes."""


@contextmanager
def _errors_named(archive: Path, target: Path) -> Iterator[None]:
    """Errors of the libraries and the disk as `DataError`."""
    try:
        yield
    except (Refused, TooLarge) as error:
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
