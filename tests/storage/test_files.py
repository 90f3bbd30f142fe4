from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import adapters
from orchestrator import backbones
from orchestrator.backbones.vit_mini import vit_mini
from orchestrator.data.layouts.lists import read_list
from orchestrator.engine import checkpoint
from orchestrator.errors import InvalidInput, OrchestrateError
from orchestrator.registry import read_index
from orchestrator.results import throughput
from orchestrator.results.sweep_file import SweepFile
from orchestrator.results.throughput import Window
from orchestrator.search.suggestions import SuggestionStore
from orchestrator.storage.files import (
    check_path,
    fingerprint,
    locked,
    make_folder,
    open_regular,
    parse_json,
    read_file,
    write_whole,
)
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.tracking import mlflow


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


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"12345")
    assert read_file(tmp_path / "good", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is no regular file"):
            read_file(path)
    for path in (tmp_path / "loop", tmp_path / ("x" * 300), Path("a\0b"), Path("\ud800")):
        with pytest.raises(OSError):
            read_file(path)
        with pytest.raises(InvalidInput, match=r"--out '.*' cannot be used: .*Name another path"):
            check_path(path, "--out")
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(tmp_path / "good", 4)
    with open_regular(tmp_path / "good", append=True) as file:
        file.write(b"6")
    assert read_file(tmp_path / "good") == b"123456"
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path / "pipe", append=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5_000, "the number 99999999999999999999… is too large; allowed: 300 digits"),
        ("[-1" + "0" * 300 + "]", "is too large"),
        ("{", "Expecting"),
    ],
    ids=["deep", "long", "negative", "cut"],
)
def test_json_that_nobody_writes_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def _pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


WINDOW = Window("p", "cpu", 0.0, 1.0, 1, 1, 1.0, 1.0, 1, ())


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("sweep.json", lambda path: SweepFile.read(SweepPaths(path.parent))),
        ("t--a/00000.json", lambda path: SuggestionStore(path.parent.parent).load("t/a")),
        ("index.json", lambda path: read_index(path.parent)),
        ("adapter_config.json", lambda path: adapters.load(vit_mini(), path.parent)),
        ("pools/p.jsonl", lambda path: throughput.append(path.parent, WINDOW)),
        ("train.txt", lambda path: _listed(path)),
        ("w.pth", lambda path: backbones.fingerprint(f"vit_mini@{path}")),
        ("mlflow.db", lambda path: mlflow._create_sqlite(path, "mark")),
        ("c.safetensors", lambda path: checkpoint._read(path)),
    ],
)
def test_no_reader_waits_at_a_pipe(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises((OSError, OrchestrateError, adapters.AdapterError), match=r"file|list"):
        read(_pipe(tmp_path / name))


def _listed(path: Path) -> None:
    problems: list[str] = []
    read_list(path, 2, problems)
    raise OSError(problems[0])
