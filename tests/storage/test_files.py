from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.storage.files import fingerprint, locked, make_folder, write_whole
from orchestrator.storage.folder_lock import FolderLock


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_file_is_replaced_whole_or_not_at_all(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"zero")
    write_whole(path, b"one")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_links_and_synced_folders_will_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync = tmp_path / "row", os.fsync

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if number != errno.EPERM:
        monkeypatch.setattr(os, "fsync", lambda h: refuse() if stat_is_folder(h) else fsync(h))
    write_whole(path, b"one", replace=False)
    with pytest.raises(FileExistsError):
        write_whole(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def stat_is_folder(handle: int) -> bool:
    return stat.S_ISDIR(os.fstat(handle).st_mode)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_every_lock_says_the_same_where_there_are_none(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = set()
    for lock in (FolderLock(tmp_path), locked(tmp_path / "lock")):
        with pytest.raises(InvalidInput, match=r"cannot lock files.*NFS share") as caught:
            lock.__enter__()
        told.add(str(caught.value))
    assert len(told) == 1
    assert str(tmp_path) in told.pop()


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        make_folder(tmp_path / "file" / "b")


def test_a_fingerprint_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights" * 100_000)
    assert fingerprint(tmp_path / "w") == hashlib.sha256(b"weights" * 100_000).hexdigest()
