"""Untrusted archives: unpacked whole, or refused with nothing written."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.download import archives
from orchestrator.errors import DataError

CONTENT = {
    "set/cifar/images/0.png": random.Random(0).randbytes(3 * 2**20),
    "set/cifar/train800.txt": b"images/0.png 3\n" * 100,
    "set/empty": b"",
}
FILE, SYMLINK, HARDLINK = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


def make(path: Path, content: Mapping[str, bytes] = CONTENT) -> Path:
    """An archive of the kind that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.mkdir("set/folder")
            for name, data in content.items():
                file.writestr(name, data)
        return path
    kind = {".tar": "", ".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}[path.suffix]
    options: dict[str, Any] = {"preset": 0} if kind == "xz" else {}
    with tarfile.open(path, f"w:{kind}", **options) as tar:
        add(tar, "set/folder", tarfile.DIRTYPE)
        for name, data in content.items():
            add(tar, name, FILE, data=data)
    return path


def add(
    tar: tarfile.TarFile, name: str, kind: bytes = FILE, link: str = "", data: bytes = b""
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    tar.addfile(info, io.BytesIO(data))


def read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_every_kind_is_unpacked_with_progress_in_bytes(tmp_path: Path, name: str) -> None:
    steps: list[tuple[int, int]] = []
    archive = make(tmp_path / name)
    assert archives.is_archive(name.upper())
    archives.unpack(archive, tmp_path / "out", lambda _, *numbers: steps.append(numbers))
    assert read(tmp_path / "out") == CONTENT
    assert (tmp_path / "out" / "set" / "folder").is_dir()
    total = sum(map(len, CONTENT.values()))
    assert steps[-1] == (total, total)
    assert steps == sorted(steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])


def test_stems() -> None:
    names = ["cifar.tar.gz", "CUB.TGZ", "a.b.zip", "a.tar", "plain"]
    assert [archives.stem(name) for name in names] == ["cifar", "CUB", "a.b", "a", "plain"]
    assert not archives.is_archive("train800.txt")


def zipped(name: str, mode: int = 0) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "bad.zip", "w") as file:
            file.writestr("good", b"1")
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            file.writestr(info, b"/etc")
        return folder / "bad.zip"

    return write


def tarred(*members: tuple[str, bytes, str]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with tarfile.open(folder / "bad.tar", "w") as tar:
            add(tar, "good", data=b"1")
            for name, kind, link in members:
                add(tar, name, kind, link)
        return folder / "bad.tar"

    return write


BAD = {
    "zip climbs": (zipped("a/../../evil"), "a/../../evil"),
    "zip absolute": (zipped("/tmp/evil"), "outside"),
    "zip climbs as on Windows": (zipped("..\\evil"), "outside"),
    "zip drive": (zipped("C:\\evil"), "outside"),
    "zip name with an end": (zipped("evil\0.png"), "outside"),
    "zip link": (zipped("link", 0o120777), "'link' is a link"),
    "zip device": (zipped("null", 0o020666), "'null' is a link or a device"),
    "tar climbs": (tarred(("../evil", FILE, "")), r"'\.\./evil' would land outside"),
    "tar absolute": (tarred(("/tmp/evil", FILE, "")), "'/tmp/evil' would land outside"),
    "tar device": (tarred(("null", tarfile.CHRTYPE, "")), "'null' is a device"),
    "tar pipe": (tarred(("pipe", tarfile.FIFOTYPE, "")), "'pipe' is a device or a pipe"),
    "tar link outside": (tarred(("a/l", SYMLINK, "../../x")), "'a/l' is a link that points out"),
    "tar absolute link": (tarred(("l", SYMLINK, "/etc")), r"points outside \('/etc'\)"),
    "tar hard link": (tarred(("l", HARDLINK, "../x")), "points outside"),
    "tar through a link": (
        tarred(("l", SYMLINK, "d"), ("l/evil", FILE, "")),
        "'l/evil' would be written through a link",
    ),
    "tar onto a link": (tarred(("l", SYMLINK, "d"), ("l", FILE, "")), "through a link"),
    "tar chain of links": (
        tarred(("x/y", SYMLINK, ".."), ("l", SYMLINK, "x/y/..")),
        "'l' is a link that points outside",
    ),
    "tar link with a name as on Windows": (
        tarred(("a\\b", SYMLINK, "..")),
        "is a link that points outside",
    ),
    "tar hard link to a link": (
        tarred(("d/e/s", SYMLINK, "../.."), ("h", HARDLINK, "d/e/s")),
        "'h' is a link that points outside",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_members_that_leave_the_folder_are_refused_before_anything_is_written(
    tmp_path: Path, case: str
) -> None:
    write, why = BAD[case]
    folder = tmp_path / "inner"
    folder.mkdir()
    archive = write(folder)
    with pytest.raises(DataError, match=why) as raised:
        archives.unpack(archive, folder / "out", quiet)
    assert str(archive) in str(raised.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", archive.name]


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a/b/file", data=b"1")
        add(tar, "a/c/soft", SYMLINK, "../b/file")
        add(tar, "hard", HARDLINK, "a/b/file")
    archives.unpack(tmp_path / "a.tar", tmp_path / "out", quiet)
    assert read(tmp_path / "out") == {"a/b/file": b"1", "a/c/soft": b"1", "hard": b"1"}


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"secret": b"1" * 100})
    raw = bytearray(archive.read_bytes())
    at = raw.rindex(b"PK\x01\x02")  # the last entry of the directory: its flags are at 8
    raw[at + 8] |= 1
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="'secret' is encrypted"):
        archives.unpack(archive, tmp_path / "out", quiet)


def damages(name: str, whole: bytes) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "text", b"<html>404 Not Found</html>" * 100
    yield "half", whole[: len(whole) // 2]
    if name.endswith(".tar"):
        yield "cut off between two members", whole[: 512 + 512 + 3 * 2**20]
        header = 512 + 512 + 3 * 2**20 + 10
        yield "damaged header", whole[:header] + b"\xff" * 50 + whole[header + 50 :]
    else:
        middle = len(whole) // 2
        yield "damaged content", whole[:middle] + bytes(64) + whole[middle + 64 :]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    archive = make(tmp_path / name)
    for what, damaged in damages(name, archive.read_bytes()):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=f"'.*{name}' is damaged"):
            archives.unpack(archive, tmp_path / "out", quiet)
        assert [path.name for path in tmp_path.iterdir()] == [name], what


def test_space_is_checked_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make(tmp_path / "a.zip")
    free = type("Usage", (), {"free": 3 * 2**20})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: free)
    with pytest.raises(DataError, match=r"needs 4 MiB in .*, but only 3 MiB are free"):
        archives.unpack(archive, tmp_path / "out", quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_disk_that_fills_up_is_reported(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot unpack '.*a\.zip' to '.*out': the disk is full"):
        archives.unpack(archive, tmp_path / "out", full)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_what_a_killed_process_left_is_not_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "half").write_text("")
    archives.unpack(make(tmp_path / "a.zip"), tmp_path / "out", quiet)
    assert read(tmp_path / "out") == CONTENT
