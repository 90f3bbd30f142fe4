"""Whether machines see one folder or bucket. Another machine is another path here: what it sees of
the folder is what is tested.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.storage import sharing
from orchestrator.storage.object_store import ObjectStore, storage
from orchestrator.storage.sharing import (
    Marker,
    SharedCheck,
    check_marker,
    describe_problems,
    filesystem,
    is_network,
    name_list,
    short_error,
)
from tests.object_stores import s3_server


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "TIMEOUT", 0.3)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_is_written_and_read_back_and_nothing_stays(prefix: str, tmp_path: Path) -> None:
    place = tmp_path / "not" / "there" / "yet"
    with SharedCheck(f"{prefix}{place}") as shared:
        reply = check_marker(shared.marker)
        assert (reply.problem, reply.locks) == ("", "kept")
        assert shared.confirm(reply) == ""
        folder = place / shared.marker.name
        assert len(list(folder.iterdir())) == 3
        assert folder.stat().st_mode & 0o777 == 0o777, "other machines may have other user ids"
    assert list(tmp_path.iterdir()) == []
    assert reply.kind or prefix


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with SharedCheck(tmp_path), SharedCheck(tmp_path / "new" / "out"):
        (tmp_path / "new" / "other").mkdir()
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "new"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("made", "problem"), [(False, "there is no such folder"), (True, "a folder of its own")]
)
def test_a_machine_with_another_folder_is_found(made: bool, problem: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    if made:
        own.mkdir()
    with SharedCheck(tmp_path / "shared") as shared:
        reply = check_marker(replace(shared.marker, place=str(own)))
        assert reply.problem.startswith(problem)
        assert shared.confirm(reply) == reply.problem
        copy = check_marker(replace(shared.marker, content="0" * 32))
        assert "something else" in shared.confirm(copy)
    assert own.exists() == made, "the check creates no folder"


def test_an_answer_that_does_not_arrive_is_reported(tmp_path: Path) -> None:
    with SharedCheck(tmp_path) as shared:
        reply = check_marker(shared.marker)
        (tmp_path / shared.marker.name / reply.file).unlink()
        assert "does not arrive" in shared.confirm(reply)
        assert "as another" in shared.confirm(replace(check_marker(shared.marker), answer="x"))


def test_a_late_marker_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    writing = threading.Timer(0.1, (tmp_path / "late" / "marker").write_text, ("content",))
    writing.start()
    assert check_marker(Marker(str(tmp_path), "late", "content")).problem == ""
    writing.join()


def test_a_lock_that_does_not_hold_is_found(tmp_path: Path) -> None:
    with SharedCheck(tmp_path) as shared:
        os.close(shared._locked)  # as if the lock were not seen elsewhere
        shared._locked = -1
        assert check_marker(shared.marker).locks == "ignored"


def test_a_folder_that_cannot_be_made_is_an_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), SharedCheck(tmp_path / "file" / "out"):
        raise AssertionError("it was entered")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An address of an S3 bucket that holds credentials."""
    with s3_server():
        yield "s3://key:geheim@bucket/mini"


def test_a_bucket_is_written_and_read_back_and_nothing_of_it_stays(bucket: str) -> None:
    with SharedCheck(bucket) as shared:
        reply = check_marker(shared.marker)
        assert (reply.problem, reply.locks) == ("", ""), "an object store has no locks"
        assert shared.confirm(reply) == ""
        elsewhere = replace(shared.marker, place=bucket.replace("/mini", "/other"))
        assert check_marker(elsewhere).problem == "what was written here is not there"
    store = storage(bucket)
    assert isinstance(store, ObjectStore)
    assert store.walk("") == {}


def test_errors_of_addresses_hide_their_secrets(bucket: str) -> None:
    missing = bucket.replace("@bucket", "@missing")
    with pytest.raises(OSError) as refused, SharedCheck(missing):
        raise AssertionError("it was entered")
    assert "geheim" not in short_error(refused.value)
    with pytest.raises(InvalidInput, match="Allowed") as unknown:
        SharedCheck("nonsense://me:geheim@host/x")
    assert "geheim" not in str(unknown.value)


def test_file_systems_are_named() -> None:
    assert filesystem(Path("/proc/self")) == "proc"
    assert filesystem(Path("/not/there")) == filesystem(Path("/"))
    assert [is_network(kind) for kind in ("nfs4", "fuse.sshfs", "ext4")] == [True, True, False]


def test_mounts_are_found_by_depth_and_by_order() -> None:
    def kind(path: str, *lines: str) -> str:
        found = (sharing._mount(number, line, path) for number, line in enumerate(lines))
        return max(filter(None, found))[2]

    root = "1 0 8:1 / / rw - ext4 /dev/a rw"
    deep = r"2 1 0:5 / /mnt/my\040share rw - nfs4 server:/x rw"
    over = r"3 1 0:6 / /mnt/my\040share rw - tmpfs tmpfs rw"
    assert kind("/mnt/my share/x", root, deep) == "nfs4"
    assert kind("/mnt/my shared", root, deep) == "ext4"
    assert kind("/mnt/my share", root, deep, over) == "tmpfs"


def test_machines_are_listed_by_problem_and_long_lists_are_cut() -> None:
    problems = {"a": "gone", "b": "", "c": "full", "d": "gone"}
    assert describe_problems(problems) == "a, d: gone; c: full"
    assert describe_problems({"a": "", "b": ""}) == ""
    assert name_list(["a", "b", "c", "d"]) == "a, b, c, d"
    assert name_list(list("abcdefg")) == "a, b, c and 4 more"
