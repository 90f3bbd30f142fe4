from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput, StorageError
from orchestrator.storage.object_store import ObjectStore
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage, paths_of
from tests.object_stores import Memory, memory, on_machine

__all__ = ["memory"]

URI = "s3://bucket/sweeps/mine"


def put(path: Path, text: str = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_is_its_own_home(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), tmp_path.as_uri()):
        storage = SweepStorage.at(place)
        assert (storage.paths, storage.store) == (SweepPaths(tmp_path), None)
        file = put(tmp_path / "asks" / "a")
        storage.upload(file)
        storage.download(file, tmp_path / "missing")
        storage.sync_down(tmp_path / "asks")
        storage.upload_folder(tmp_path / "asks", last=file)
        assert file.read_text() == "content"
        storage.remove(file)
        assert not file.exists()
        storage.remove_folder(tmp_path / "asks")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"garbage", b"\xff\xfe", b"", b"ftp://x/y"])
def test_a_marker_that_holds_no_address_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".home").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"home' says .* is no address .*Delete the file"):
        SweepStorage.at(tmp_path)
    (tmp_path / ".home").unlink()
    os.mkfifo(tmp_path / ".home")
    assert SweepStorage.at(tmp_path).paths.uri == ""


def test_places_are_named_as_a_person_named_them(tmp_path: Path) -> None:
    near, far = SweepPaths(tmp_path), paths_of(f"{URI}/?region=eu-west-1")
    assert near.ledger == tmp_path / "ledger"
    assert far.ledger == f"{URI}/ledger?region=eu-west-1"
    assert (near.name, far.name) == (str(tmp_path), URI)
    assert near.shown(near.report) == str(near.report)
    assert far.shown(far.registry / "index.json") == f"{URI}/registry/index.json"


def test_an_address_has_one_working_copy_whatever_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path))
    copies = {paths_of(u).out for u in (URI, f"{URI}/", f"{URI}?region=eu-west-1")}
    assert len(copies) == 1
    assert copies.pop().parent == tmp_path / "sweeps"
    assert paths_of("s3://bucket/sweeps/other").out != paths_of(URI).out
    monkeypatch.delenv("ORCHESTRATE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert paths_of(URI).out.parent == tmp_path / "me" / ".cache" / "orchestrate" / "sweeps"


@pytest.mark.parametrize(
    ("place", "fragment"),
    [
        ("ftp://host/x", "'ftp://' is no kind.*a folder, file:///FOLDER, s3://BUCKET/NAME, gs:"),
        ("abfs://store/sweep", "'abfs://' is no kind"),
        ("s3://bucket", "'s3://bucket' names no place in a bucket; write s3://BUCKET/NAME"),
        ("az://container", "names no place in a bucket; write az://BUCKET/NAME"),
        ("az://c/x?account_key=hush", "holds credentials.*AZURE_STORAGE_ACCOUNT_KEY"),
        ("gs:///name", "names no place in a bucket; write gs://BUCKET/NAME"),
        ("gs://anonymous@/name", "names no place"),
        ("file://here", "write file:///FOLDER"),
        ("s3://KEY:hush@bucket/x", "holds credentials.*AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?secret_key=hush", "holds credentials"),
        ("gs://bucket/x?access_token=hush", "holds credentials.*GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_addresses_that_cannot_be_one_are_refused(place: str, fragment: str) -> None:
    with pytest.raises(InvalidInput, match=fragment) as caught:
        paths_of(place)
    assert "hush" not in str(caught.value)


def test_what_one_machine_publishes_another_fetches(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = SweepStorage.at(URI)
    asks = here.paths.asks
    files = [put(asks / study / "00000.json", study) for study in ("a", "b")]
    here.upload(put(here.paths.sweep, "the sweep"), *files)
    on_machine("two", tmp_path, monkeypatch)
    there = SweepStorage.at(URI)
    assert there.paths.out != here.paths.out
    there.download(there.paths.sweep)
    assert there.paths.sweep.read_text() == "the sweep"
    stale = put(there.paths.asks / "c" / "00000.json")
    there.sync_down(there.paths.asks)
    assert [(there.paths.asks / s / "00000.json").read_text() for s in ("a", "b")] == ["a", "b"]
    assert not stale.exists(), "the store does not have it"
    there.remove(there.paths.asks / "a" / "00000.json")
    here.download(files[0])
    assert not files[0].exists()
    there.remove_folder(there.paths.asks)
    assert memory.names("sweeps/mine") == ["sweep.json"]
    assert [path.name for path in there.paths.out.rglob(".*")] == [".home"], "no draft is left"
    assert SweepStorage.at(there.paths.out).paths == there.paths, "the copy is named like the sweep"


def test_a_file_of_any_size_travels_whole(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.object_store._PIECE", 1000)
    storage = SweepStorage.at(URI)
    big = put(storage.paths.data / "big.arrow", "0123456789" * 1234)
    storage.upload(big)
    on_machine("two", tmp_path, monkeypatch)
    there = SweepStorage.at(URI)
    there.download(there.paths.data / "big.arrow")
    assert (there.paths.data / "big.arrow").read_bytes() == big.read_bytes()


def test_a_folder_is_published_with_its_index_last(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SweepStorage.at(URI)
    registry = storage.paths.registry
    old = put(registry / "a" / "old")
    index = put(registry / "index.json")
    storage.upload_folder(registry, last=index)
    old.unlink()
    put(registry / "z" / "new")
    order: list[str] = []
    for name in ("upload", "delete"):
        call = getattr(ObjectStore, name)

        def noted(
            self: ObjectStore, *arguments: object, call: object = call, name: str = name
        ) -> None:
            order.append(f"{name} {arguments[-1]}")
            call(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(ObjectStore, name, noted)
    storage.upload_folder(registry, last=index)
    assert order == ["upload new", "upload index.json", "delete old"]
    assert memory.names("sweeps/mine/registry") == ["index.json", "z/new"]


def test_growing_files_are_never_made_shorter(memory: Memory) -> None:
    storage = SweepStorage.at(URI)
    mine, theirs = storage.paths.pools / "mine.jsonl", storage.paths.pools / "theirs.jsonl"
    storage.upload(put(mine, "1"), put(theirs, "1\n2"))
    put(mine, "1\n2")
    put(theirs, "1")
    only_here = put(storage.paths.pools / "new.jsonl")
    storage.sync_down(storage.paths.pools, growing=True)
    assert (mine.read_text(), theirs.read_text()) == ("1\n2", "1\n2")
    assert only_here.exists()


@pytest.mark.parametrize("name", ["../../evil", "a/../../evil", "/etc/evil", "a//../evil", "a\0b"])
def test_no_object_leads_out_of_its_folder(
    name: str, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SweepStorage.at(URI)
    monkeypatch.setattr(ObjectStore, "walk", lambda *_: {name: 1})
    monkeypatch.setattr(ObjectStore, "download", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(StorageError, match="leads out of its folder"):
        storage.sync_down(storage.paths.asks)


def test_a_full_disk_is_a_refusal(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = SweepStorage.at(URI)
    storage.upload(put(storage.paths.sweep))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ObjectStore, "download", full)
    with pytest.raises(StorageError, match=r"cannot write '.*sweep\.json'.*No space left"):
        storage.download(storage.paths.sweep)
