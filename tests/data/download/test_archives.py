"""Untrusted archives: unpacked whole, or refused with nothing written."""

from __future__ import annotations

import gzip
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


def sized(name: str, packed: int, claimed: int) -> Callable[[Path], Path]:
    """A zip whose directory claims another size of its one member."""

    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "bad.zip", "w") as file:
            file.writestr(name, bytes(packed))
        raw = bytearray((folder / "bad.zip").read_bytes())
        for start, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = raw.index(start) + place
            raw[at : at + 4] = claimed.to_bytes(4, "little")
        (folder / "bad.zip").write_bytes(raw)
        return folder / "bad.zip"

    return write


def zeros(name: str, size: int = 3 * 2**20, members: int = 1) -> Callable[[Path], Path]:
    """Members that are packed a thousand times smaller."""
    return lambda folder: make(folder / name, {f"z{n}": bytes(size) for n in range(members)})


def zeros_behind_the_end(folder: Path) -> Path:
    with tarfile.open(folder / "a.tar", "w") as tar:
        add(tar, "good", data=b"1")
    whole = (folder / "a.tar").read_bytes() + bytes(4 * 2**20)
    (folder / "a.tar").unlink()
    (folder / "bad.tar.gz").write_bytes(gzip.compress(whole))
    return folder / "bad.tar.gz"


def sparse(folder: Path) -> Path:
    """A file of a terabyte, of which nothing is in the archive."""
    info = tarfile.TarInfo("x")
    info.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "x",
        "GNU.sparse.size": str(2**40), "GNU.sparse.map": f"{2**40},0",
    }  # fmt: skip
    with tarfile.open(folder / "bad.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    return folder / "bad.tar"


def header_of_zeros(folder: Path) -> Path:
    """An extended header, which tarfile reads into memory, of four million bytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 4 * 2**20
    (folder / "bad.tar.gz").write_bytes(gzip.compress(info.tobuf() + bytes(4 * 2**20)))
    return folder / "bad.tar.gz"


BAD = {
    "zip that claims 4 GB for 2 bytes": (sized("x", 2, 2**32 - 2), "'x' expands to 4,294,967,294"),
    "zip that claims 300 bytes for 2": (sized("x", 2, 300), "'x' has 2 bytes and claims 300"),
    "zip of zeros": (zeros("bad.zip"), "'z0' expands to 3,145,728 bytes .* allowed: 200 times"),
    "zip of many zeros": (zeros("bad.zip", 2**20 - 1, 4), "it expands to 4,194,300 bytes"),
    "gz of zeros": (zeros("bad.tar.gz"), "it expands to"),
    "bz2 of zeros": (zeros("bad.tar.bz2"), "it expands to"),
    "xz of zeros": (zeros("bad.tar.xz"), "it expands to"),
    "zeros behind the end": (zeros_behind_the_end, "it expands to"),
    "sparse file": (sparse, "it expands to 1,099,511,627,776"),
    "header of zeros": (header_of_zeros, "it expands to"),
    "zip name twice": (zipped("./good"), "'./good' is there twice"),
    "zip file and folder": (zipped("good/x"), "'good/x' is a file and a folder"),
    "zip long name": (zipped("x" * 300), "has a name of more than 255 bytes"),
    "tar name twice": (tarred(("good", FILE, "")), "'good' is there twice"),
    "tar file and folder": (tarred(("good/x", FILE, "")), "'good/x' is a file and a folder"),
    "tar file of no name": (tarred((".", FILE, "")), "'.' is a file and a folder"),
    "tar hard link to nothing": (
        tarred(("l", HARDLINK, "gone")),
        "'l' is a hard link to 'gone', which is no file before it",
    ),
    "tar hard link to itself": (tarred(("l", HARDLINK, "l")), "which is no file before it"),
    "tar hard link to a folder": (
        tarred(("d", tarfile.DIRTYPE, ""), ("l", HARDLINK, "d")),
        "which is no file before it",
    ),
    "tar hard link to a later file": (
        tarred(("l", HARDLINK, "z"), ("z", FILE, "")),
        "which is no file before it",
    ),
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


def test_a_later_file_counts_where_an_archive_is_written_while_files_change(
    tmp_path: Path,
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for data in (b"1", b"22"):
            add(tar, "file", data=data)
    with pytest.raises(DataError, match="'file' is there twice"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "out", quiet)
    archives.unpack(tmp_path / "a.tar", tmp_path / "out", quiet, updates=True)
    assert read(tmp_path / "out") == {"file": b"22"}


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


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_random_damage_is_refused_or_does_no_harm(tmp_path: Path, name: str) -> None:
    content = {"a/x": b"hello 1\n" * 40, "a/y": random.Random(1).randbytes(2000), "b": b""}
    archive, rng = make(tmp_path / name, content), random.Random(2)
    whole = archive.read_bytes()
    for number in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        archive.write_bytes(damaged[: rng.choice([None, rng.randrange(len(whole))])])
        try:
            archives.unpack(archive, tmp_path / f"out{number}", quiet)
        except DataError as error:
            assert str(archive) in str(error)
        else:  # a plain tar has no checksums of its content
            found = set(read(tmp_path / f"out{number}").values())
            assert name == "a.tar" or found <= set(content.values())
