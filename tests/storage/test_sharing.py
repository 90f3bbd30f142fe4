"""Whether machines see one folder or bucket. A machine is a thread or a process here: what it sees
of the folder is what is tested, and a folder of its own is another folder at another path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.storage import sharing
from orchestrator.storage.addresses import location
from orchestrator.storage.object_store import ObjectStore, storage
from orchestrator.storage.sharing import (
    Marker,
    SharedCheck,
    Sight,
    check_marker,
    filesystem,
    is_network,
    listed,
    told,
)


def test_a_folder_is_written_and_read_back_and_nothing_stays(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there" / "yet"
    with SharedCheck(place) as shared:
        sight = check_marker(shared.marker)
        assert (sight.problem, sight.locks) == ("", "kept")
        assert sight.kind
        assert shared.confirm(sight) == ""
        assert len(list((place / shared.marker.name).iterdir())) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with SharedCheck(tmp_path) as shared:
        check_marker(shared.marker)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_folder_that_others_began_to_use_meanwhile_stays(tmp_path: Path) -> None:
    with SharedCheck(tmp_path / "new" / "out"):
        (tmp_path / "new" / "other").mkdir()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("made", "told"), [(False, "there is no such folder"), (True, "a folder of its own")]
)
def test_a_machine_with_another_folder_says_which(made: bool, told: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    if made:
        own.mkdir()
    with SharedCheck(tmp_path / "shared") as shared:
        sight = check_marker(replace(shared.marker, place=str(own)))
        assert sight.problem.startswith(told)
        assert shared.confirm(sight) == sight.problem
    assert own.exists() == made, "looking makes no folder"


def test_an_old_copy_of_the_folder_is_not_the_folder(tmp_path: Path) -> None:
    with SharedCheck(tmp_path / "shared") as shared:
        sight = check_marker(replace(shared.marker, content="0" * 32))
        assert "something else" in shared.confirm(sight)


def test_an_answer_that_does_not_arrive_is_told(tmp_path: Path) -> None:
    with SharedCheck(tmp_path) as shared:
        sight = check_marker(shared.marker)
        (tmp_path / shared.marker.name / sight.file).unlink()
        assert "does not arrive" in shared.confirm(sight)
        assert "as another" in shared.confirm(replace(check_marker(shared.marker), answer="x"))


def test_what_comes_late_is_waited_for(tmp_path: Path) -> None:
    marker = Marker(str(tmp_path), "late", "content")
    (tmp_path / "late").mkdir()
    writing = threading.Timer(0.3, (tmp_path / "late" / "marker").write_text, ("content",))
    writing.start()
    assert check_marker(marker).problem == ""
    writing.join()


def test_what_never_comes_is_not_waited_for_long(tmp_path: Path) -> None:
    began = time.monotonic()
    check_marker(Marker(str(tmp_path), "never", "content"))
    assert time.monotonic() - began < sharing.PATIENCE + 1


def test_a_lock_is_tried_and_not_just_asked_for(tmp_path: Path) -> None:
    with SharedCheck(tmp_path) as shared:
        os.close(shared._locked)  # as if the lock were not seen elsewhere
        shared._locked = -1
        assert check_marker(shared.marker).locks == "ignored"


def test_another_process_is_kept_out(tmp_path: Path) -> None:
    code = (
        "import sys; from orchestrator.storage.sharing import *; "
        "print(check_marker(Marker(*sys.argv[1:])).locks)"
    )
    with SharedCheck(tmp_path) as shared:
        marker = shared.marker
        done = subprocess.run(
            [sys.executable, "-c", code, marker.place, marker.name, marker.content],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "kept"


def test_a_folder_that_cannot_be_made_is_an_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), SharedCheck(tmp_path / "file" / "out"):
        raise AssertionError("it was entered")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_machine_that_may_not_write_says_so(tmp_path: Path) -> None:
    with SharedCheck(tmp_path) as shared:
        folder = tmp_path / shared.marker.name
        blocked = Sight(sharing.said(PermissionError(13, "Permission denied")))
        assert shared.confirm(blocked) == "Permission denied"
        assert folder.stat().st_mode & 0o777 == 0o777, "whatever number another machine's user has"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 of moto's, with a bucket; its address holds the credentials."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="geheim",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="sweeps")
    options = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    yield f"s3://key:geheim@sweeps/mini?{options}"
    server.stop()


def test_a_bucket_is_written_and_read_back_and_nothing_of_it_stays(bucket: str) -> None:
    with SharedCheck(bucket) as shared:
        sight = check_marker(shared.marker)
        assert sight.problem == ""
        assert sight.locks == "", "an object store has none"
        assert shared.confirm(sight) == ""
    store = storage(bucket)
    assert isinstance(store, ObjectStore)
    assert store.walk("") == {}


def test_a_bucket_that_refuses_is_told_without_its_secrets(bucket: str) -> None:
    with (
        pytest.raises(OSError) as refused,
        SharedCheck(bucket.replace("@sweeps", "@missing")),
    ):
        raise AssertionError("it was entered")
    assert "geheim" not in sharing.said(refused.value)
    with SharedCheck(bucket) as shared:
        elsewhere = replace(shared.marker, place=bucket.replace("/mini", "/other"))
        assert check_marker(elsewhere).problem == "what was written here is not there"


def test_an_address_that_is_none_is_refused_without_its_secrets() -> None:
    with pytest.raises(InvalidInput, match="Allowed") as refused:
        SharedCheck("nonsense://me:geheim@host/x")
    assert "geheim" not in str(refused.value)


def test_file_addresses_are_folders(tmp_path: Path) -> None:
    with SharedCheck(f"file://{tmp_path}") as shared:
        assert check_marker(shared.marker).locks == "kept"


def test_places_are_shown_without_credentials() -> None:
    assert location("s3://key:secret@bucket/x?session=1") == "s3://bucket/x"
    assert location(Path("/mnt/x")) == "/mnt/x"


def test_file_systems_have_names() -> None:
    assert filesystem(Path("/proc/self")) == "proc"
    assert filesystem(Path("/not/there")) == filesystem(Path("/"))
    assert is_network("nfs4")
    assert is_network("fuse.sshfs")
    assert not is_network("ext4")


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


def test_machines_with_the_same_trouble_are_told_together() -> None:
    assert told({"a": "gone", "b": "", "c": "full", "d": "gone"}) == "a, d: gone; c: full"
    assert told({"a": "", "b": ""}) == ""


def test_many_names_are_cut_short() -> None:
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert listed(list("abcdefg")) == "a, b, c and 4 more"
