"""Images fetched from folders, archives and a hub; interrupted anywhere, and gone on with."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator import tasks
from orchestrator.data.download import archives, hub
from orchestrator.data.download.fetch import fetch
from orchestrator.errors import DataError, InvalidInput
from tests.data.download.hub import Hub
from tests.data.download.test_archives import make, quiet, read
from tests.data.test_suite_root import TOY

BIG = random.Random(1).randbytes(2 * 2**20)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for the network nor for the disks of the whole machine."""
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(hub, "WAITS", (0.01,))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "toy"


def zip_of(folder: Path, content: Mapping[str, bytes]) -> bytes:
    folder.mkdir(exist_ok=True)
    return make(folder / "made.zip", content).read_bytes()


@pytest.fixture
def images(tmp_path: Path) -> dict[str, bytes]:
    """A repository with a large file, small ones, and archives with folders and loose files."""
    return {
        "README.md": b"hello",
        "cifar/big.bin": BIG,
        "cifar/train800.txt": b"",
        "dtd/images.zip": zip_of(tmp_path / "made", {"0.png": b"0", "1.png": b"1"}),
        "more.zip": zip_of(tmp_path / "made", {"dtd/train800.txt": b"x", "cifar/val200.txt": b""}),
    }


WHOLE = {
    "README.md": b"hello",
    "cifar/big.bin": BIG,
    "cifar/train800.txt": b"",
    "cifar/val200.txt": b"",
    "dtd/images/0.png": b"0",
    "dtd/images/1.png": b"1",
    "dtd/train800.txt": b"x",
}


@pytest.fixture
def served(images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(images) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def content(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in read(folder).items() if name != ".fetched"}


def run(source: str | Path, target: Path) -> Path:
    return fetch(TOY, str(source), target, lambda _: None, quiet)


def tidy(target: Path) -> bool:
    """Nothing but the target and the lock is left beside it."""
    return {path.name for path in target.parent.iterdir()} == {"toy", ".toy.lock"}


def test_a_repository_is_downloaded_whole_and_its_archives_unpacked(
    served: Hub, target: Path
) -> None:
    steps: list[tuple[str, int, int]] = []
    messages: list[str] = []
    root = fetch(TOY, "someone/images", target, messages.append, lambda *step: steps.append(step))
    assert root == target
    assert content(target) == WHOLE
    assert tidy(target)
    total = sum(map(len, served.files.values()))
    assert ("downloading someone/images", total, total) in steps
    assert any(what == "unpacking more.zip" for what, _, _ in steps)
    assert messages[-1] == f"2 of 2 tasks of suite 'toy' in '{target}'"
    before = len(served.requests)
    assert run("hf://someone/images", target) == target
    assert len(served.requests) == before, "what is there is not looked up again"


@pytest.mark.parametrize(
    ("ignores_ranges", "ranges"),
    [(False, [None, "bytes=500000-", "bytes=1000000-"]), (True, [None, *["bytes=500000-"] * 2])],
)
def test_a_cut_connection_is_resumed_within_the_command(
    served: Hub, target: Path, ignores_ranges: bool, ranges: list[str | None]
) -> None:
    served.cut, served.cuts, served.ignores_ranges = {"cifar/big.bin": 500_000}, 2, ignores_ranges
    run("hf://datasets/someone/images@main", target)
    assert content(target) == WHOLE
    assert served.ranges("cifar/big.bin") == ranges


def test_the_same_command_goes_on_where_it_failed(served: Hub, target: Path) -> None:
    served.cut, served.cuts = {"cifar/big.bin": 0}, 100
    with pytest.raises(DataError, match=r"'someone/images' at http.* cannot be reached"):
        run("someone/images", target)
    assert not target.exists()
    served.cuts, served.cut = 1, {"cifar/big.bin": 700_000}
    served.requests.clear()
    run("someone/images", target)
    assert content(target) == WHOLE
    assert served.ranges("cifar/big.bin")[-1] == "bytes=700000-"


def test_a_partial_file_of_another_content_is_not_continued(served: Hub, target: Path) -> None:
    kill_while("downloading", target)
    served.commit = "f" * 40
    served.files = {**served.files, "cifar/big.bin": BIG[::-1]}
    run("someone/images", target)
    assert content(target) == {**WHOLE, "cifar/big.bin": BIG[::-1]}


@pytest.mark.parametrize("sent", [BIG[:-1] + b"?", BIG + b"more", b""])
def test_what_arrives_damaged_is_never_kept(served: Hub, target: Path, sent: bytes) -> None:
    served.sends = {"cifar/big.bin": sent}
    with pytest.raises(DataError, match=r"'cifar/big.bin' .*arrived damaged|ended .* too early"):
        run("someone/images", target)
    assert not target.exists()
    served.sends = {}
    run("someone/images", target)
    assert content(target) == WHOLE


KILLED = 9


def in_a_copy(work: Callable[[], object]) -> int:
    """The exit status of a copy of this process that does the work."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:  # pytest must not go on in the copy
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_while(phase: str, target: Path) -> None:
    """Fetch in a copy of this process, which is killed in the middle of that phase."""

    def progress(what: str, done: int, total: int) -> None:
        if what.startswith(phase) and done >= min(total, 2**20):
            os._exit(KILLED)

    work = partial(fetch, TOY, "someone/images", target, lambda _: None, progress)
    assert in_a_copy(work) == KILLED


@pytest.mark.parametrize("phase", ["downloading", "unpacking"])
def test_a_killed_fetch_is_completed_by_the_same_command(
    served: Hub, target: Path, phase: str
) -> None:
    kill_while(phase, target)
    assert not target.exists()
    served.requests.clear()
    run("someone/images", target)
    assert content(target) == WHOLE
    assert tidy(target)
    again = [request.path for request in served.requests if request.path.startswith("/cdn")]
    if phase == "unpacking":
        assert not again, "whole files are not downloaded again"
    else:
        (wanted,) = served.ranges("cifar/big.bin")
        assert wanted and int(wanted[6:-1]) > 1_000_000, "what had arrived is not sent again"


CHANGES = ("rename", "replace", "mkdir", "unlink", "rmdir", "fsync")


def killed_at(step: int, work: Callable[[], object], patch: pytest.MonkeyPatch) -> bool:
    """Whether a copy of this process, killed before its change number `step` to the disk, died."""
    count = iter(range(step))

    def counting(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **options: Any) -> Any:
            if next(count, None) is None:
                os._exit(KILLED)
            return change(*args, **options)

        return wrapper

    def counted() -> None:
        for name in CHANGES:
            patch.setattr(os, name, counting(getattr(os, name)))
        work()

    status = in_a_copy(counted)
    assert status in (0, KILLED)
    return status == KILLED


@pytest.mark.parametrize(("source", "stride"), [("someone/images", 9), ("archive", 1)])
def test_killed_before_any_change_to_the_disk_it_completes(
    served: Hub,
    target: Path,
    tmp_path: Path,
    source: str,
    stride: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a repository's 66 changes, which take a third of a second each, some."""
    wanted = WHOLE
    if source == "archive":
        wanted = {"dtd/0.png": b"0", "cifar/1.png": b"1"}
        source = str(make(tmp_path / "toy.zip", wanted))
    step = 0
    while killed_at(step, lambda: run(source, target), monkeypatch):
        assert not target.exists() or content(target) == wanted, step
        run(source, target)
        assert content(target) == wanted, step
        shutil.rmtree(target.parent)
        step += stride
    assert step > 10


def test_unknown_gated_and_offline_repositories_are_distinguished(
    served: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"no dataset repository 'some/one' at http.*private"):
        run("some/one", target)
    with pytest.raises(DataError, match="has no branch, tag or commit 'v2'"):
        run("hf://someone/images@v2", target)
    served.gated = True
    with pytest.raises(DataError, match=r"is gated: ask for access at http.*datasets/someone"):
        run("someone/images", target)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="because HF_HUB_OFFLINE is set"):
        run("someone/images", target)


def test_without_a_network_the_alternatives_are_named(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError) as raised:
        run("someone/images", target)
    for part in (
        "'someone/images' at http://127.0.0.1:9 cannot be reached",
        "`orchestrate data fetch toy --from FOLDER_OR_ARCHIVE`",
        "TOY_ROOT",
    ):
        assert part in str(raised.value)


def test_a_path_in_a_repository_that_leaves_its_folder_is_refused(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub({"../evil": b"1"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(DataError, match=r"outside of its folder: '\.\./evil'"):
            run("someone/images", target)


def test_too_little_space_is_reported_before_the_download(
    served: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: free)
    with pytest.raises(DataError, match=r"downloading needs 3 MiB in .*, but only 1 MiB are free"):
        run("someone/images", target)
    assert not any(request.path.startswith("/cdn") for request in served.requests)


def test_a_full_disk_is_reported_and_the_fetch_continues_later(served: Hub, target: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(DataError, match=r"cannot fetch to '.*toy': the disk is full"):
            run("someone/images", target)
    run("someone/images", target)
    assert content(target) == WHOLE


def test_an_archive_is_unpacked_once(tmp_path: Path, target: Path) -> None:
    archive = make(tmp_path / "toy.tar.gz", {"toy-1k/dtd/0.png": b"0"})
    assert run(archive, target) == target / "toy-1k"
    messages: list[str] = []
    fetch(TOY, str(archive), target, messages.append, quiet)
    assert "was fetched from there before" in messages[0]
    other = make(tmp_path / "other.zip", {"dtd/0.png": b"0"})
    with pytest.raises(InvalidInput, match=r"holds what was fetched from '.*toy\.tar\.gz"):
        run(other, target)
    assert content(target) == {"toy-1k/dtd/0.png": b"0"}


def test_a_folder_is_used_in_place(tmp_path: Path, target: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "dtd").mkdir(parents=True)
        assert run(tmp_path / name, target) == target
        assert target.resolve() == tmp_path / name
    assert run(tmp_path / "second", target) == target
    with pytest.raises(InvalidInput, match=r"a link to '.*second', is there already"):
        run(make(tmp_path / "a.zip", {"dtd/0": b""}), target)
    (tmp_path / "second").rename(tmp_path / "third")
    with pytest.raises(InvalidInput, match=r"a link to '.*second', is there already"):
        run("someone/images", target)
    assert run(tmp_path / "third", target) == target, "a link to nowhere is replaced"
    assert (target / "dtd").is_dir()


def test_a_folder_with_content_is_never_replaced(tmp_path: Path, target: Path) -> None:
    (tmp_path / "images" / "dtd").mkdir(parents=True)
    target.mkdir(parents=True)
    (target / "mine").write_text("1")
    for source in (tmp_path / "images", make(tmp_path / "a.zip", {"dtd/0": b""}), "some/one"):
        with pytest.raises(InvalidInput, match="is there already"):
            run(source, target)
    assert content(target) == {"mine": b"1"}


def test_content_without_a_task_folder_is_refused_with_what_is_there(
    tmp_path: Path, target: Path
) -> None:
    (tmp_path / "wrong" / "imagenet").mkdir(parents=True)
    for source in (tmp_path / "wrong", make(tmp_path / "a.zip", {"imagenet/0": b""})):
        with pytest.raises(DataError, match=r"Looked for: cifar, dtd\. What is there: .*imagenet"):
            run(source, target)
        assert not target.exists()
    run(make(tmp_path / "right.zip", {"dtd/0": b""}), target)
    assert tidy(target)


@pytest.mark.parametrize("source", ["nowhere", "./data/images", "data/toy.zip"])
def test_what_is_neither_names_the_three_forms(target: Path, source: str) -> None:
    with pytest.raises(InvalidInput, match=r"does not exist\. Allowed: a folder, an archive .*hub"):
        run(source, target)


def test_a_file_that_is_no_archive_and_a_suite_without_folders_are_refused(
    tmp_path: Path, target: Path
) -> None:
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(InvalidInput, match=r"as a path it is no archive"):
        run(tmp_path / "list.txt", target)
    with pytest.raises(InvalidInput, match="'mini' is not read from a folder"):
        fetch(tasks.suite("mini"), "a/b", target, lambda _: None, quiet)


def test_a_second_fetch_waits_for_the_first(tmp_path: Path, target: Path) -> None:
    target.parent.mkdir()
    archive = make(tmp_path / "toy.zip", {"dtd/0": b""})
    messages: list[str] = []
    waiting = threading.Event()

    def notify(sentence: str) -> None:
        messages.append(sentence)
        waiting.set()

    with open(target.parent / ".toy.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=fetch, args=(TOY, str(archive), target, notify, quiet))
        second.start()
        assert waiting.wait(10)
        assert not target.exists()
    second.join(10)
    assert "waiting for it" in messages[0]
    assert content(target) == {"dtd/0": b""}
