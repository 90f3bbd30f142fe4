"""A sweep's files through a log and back: complete, only what is new, never outside the folder."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import LocalStore

from orchestrator import registry
from orchestrator.cli.outputs import rebuild
from orchestrator.cluster.sync.file_list import FileList, entries
from orchestrator.cluster.sync.log_stream import BLOCK, DATA, END, Receiver, Sender
from orchestrator.cluster.sync.pack import local_copy, pack
from orchestrator.cluster.sync.unpack import existing_files, merge
from orchestrator.errors import BackendError, DataError, InvalidInput, SweepConflict
from orchestrator.results.sweep_file import read_sweep
from orchestrator.storage.files import fingerprint
from orchestrator.storage.object_store import ObjectStore
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage
from tests.commands import results, run


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory, mini_data: Path) -> Path:
    """A finished sweep: two configurations, both replicated, and a final."""
    out = tmp_path_factory.mktemp("remote") / "out"
    (out.parent / "space.yaml").write_text("lora: {rank: [2, 4]}\n")
    ended = run(
        [
            *("sweep", "mini", "--tasks", "textures", "--adapter", "lora", "--sampler", "grid"),
            *("--space", str(out.parent / "space.yaml"), "--epochs", "1", "--seeds", "1"),
            *("--backend", "local", "--device", "cpu", "--out", str(out)),
        ],
        mini_data,
    )
    assert ended.returncode == 0, ended.stdout
    return out


def _packed(out: Path, home: Path, everything: bool = False) -> list[str]:
    lines: list[str] = []
    pack(out, existing_files(home, everything), everything, lines.append, rebuild)
    return lines


def _archive(lines: list[str], folder: Path) -> Path:
    path = folder / "files.tar.gz"
    with open(path, "wb") as sink:
        receiver = Receiver(sink)
        receiver.feed("Running entrypoint\n" + "\n".join(lines) + "\n")
        receiver.finish()
    return path


def _fetch(out: Path, home: Path, folder: Path, everything: bool = False) -> tuple[int, int]:
    synced = merge(_archive(_packed(out, home, everything), folder), home)
    return synced.new, synced.unchanged


def test_ledger_registry_and_report_come_home(remote: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    new, unchanged = _fetch(remote, home, tmp_path)
    assert unchanged == 0
    assert results(home) == results(remote)
    assert fingerprint(home / "report.html") == fingerprint(remote / "report.html")
    sent = {name for name in entries(everything=False) if (remote / name).exists()}
    assert {path.name for path in home.iterdir()} == sent | {"adapters"}
    assert registry.load(home / "registry", "textures", "lora")
    rebuild(home)  # what it exports are the adapters that the registry brought
    assert _fetch(remote, home, tmp_path) == (2, new - 2), "report and index were written anew"
    (evidence,) = (home / "registry").rglob("evidence.json")
    assert json.loads(evidence.read_text())["probabilities"], "without the logits, from before"


def test_only_what_is_new_travels(remote: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    new, _ = _fetch(remote, home, tmp_path)
    assert _fetch(remote, home, tmp_path) == (0, new)
    again, everything = _packed(remote, home), _packed(remote, tmp_path / "none")
    assert len("".join(again)) < 8000 < len("".join(everything))
    row = next((home / "ledger" / "fragments").iterdir())
    row.write_bytes(b"damaged")
    shutil.rmtree(home / "registry")
    fetched, _ = _fetch(remote, home, tmp_path)
    assert fetched > 1
    assert results(home) == results(remote)


def test_everything_is_what_another_command_would_need(remote: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    _fetch(remote, home, tmp_path, everything=True)
    for name in ("asks", "adapters", "logs"):
        theirs = {p.relative_to(remote) for p in (remote / name).rglob("*") if p.is_file()}
        assert theirs
        assert theirs == {p.relative_to(home) for p in (home / name).rglob("*") if p.is_file()}


def test_a_running_sweep_comes_with_a_report_of_its_ledger(remote: Path, tmp_path: Path) -> None:
    running, home = tmp_path / "running", tmp_path / "home"
    shutil.copytree(remote, running)
    shutil.rmtree(running / "registry")
    (running / "report.html").unlink()
    for row in sorted((running / "ledger" / "fragments").iterdir())[::2]:
        row.unlink()
    _fetch(running, home, tmp_path)
    assert (home / "report.html").exists()
    assert registry.read_index(home / "registry") is not None
    assert results(home) == results(running)
    for row in (remote / "ledger" / "fragments").iterdir():
        shutil.copy(row, running / "ledger" / "fragments")
    _fetch(running, home, tmp_path)
    assert results(home) == results(remote)


def test_a_report_that_cannot_be_written_keeps_no_row_back(remote: Path, tmp_path: Path) -> None:
    torn, home = tmp_path / "torn", tmp_path / "home"
    shutil.copytree(remote, torn)
    shutil.rmtree(torn / "adapters")
    (torn / "report.html").unlink()
    lines = _packed(torn, home)
    assert lines[0].startswith("notice: registry and report are as they were")
    merge(_archive(lines, tmp_path), home)
    assert results(home) == results(remote)


def test_what_changes_while_it_is_read_is_read_again(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction takes listed fragments away, and puts their rows elsewhere."""
    out, home = tmp_path / "out", tmp_path / "home"
    shutil.copytree(remote, out)
    read, done = Path.read_bytes, []

    def compacting(path: Path) -> bytes:
        if path.parent.name == "fragments" and not done:
            done.append(path)
            from orchestrator.results.ledger import Ledger

            Ledger(out / "ledger").compact()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", compacting)
    lines = _packed(out, home)
    monkeypatch.undo()
    merge(_archive(lines, tmp_path), home)
    assert done
    assert results(home) == results(remote)


def test_another_sweep_is_not_mixed_in(remote: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    _fetch(remote, home, tmp_path)
    replace(read_sweep(SweepPaths(home)), id="0" * 16).write(SweepPaths(home))
    before = {path: fingerprint(path) for path in home.rglob("*") if path.is_file()}
    with pytest.raises(SweepConflict, match="another sweep"):
        _packed(remote, home)
    with pytest.raises(SweepConflict, match="another sweep"):
        merge(_archive(_packed(remote, tmp_path / "none"), tmp_path), home)
    assert before == {path: fingerprint(path) for path in home.rglob("*") if path.is_file()}


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InvalidInput, match=r"thesis\.tex"):
        existing_files(tmp_path, False)
    with pytest.raises(InvalidInput, match="is a file"):
        existing_files(tmp_path / "thesis.tex", False)


def test_a_sweep_in_an_object_store_is_copied_first(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))

    def at(place: str) -> SweepStorage:
        assert place == "s3://bucket/sweep"
        found = SweepStorage(SweepPaths(copy))
        bucket = LocalStore(remote)
        found.store = ObjectStore(bucket, bucket, "", place)
        return found

    monkeypatch.setattr(SweepStorage, "at", at)
    with local_copy("s3://bucket/sweep") as folder:
        merge(_archive(_packed(folder, home), tmp_path), home)
    monkeypatch.undo()
    assert results(home) == results(remote)
    assert registry.load(home / "registry", "textures", "lora")


def test_a_folder_is_read_where_it_lies(remote: Path) -> None:
    for name in (str(remote), remote.as_uri()):
        with local_copy(name) as folder:
            assert folder == remote


def test_where_there_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no sweep"):
        _packed(tmp_path / "nothing", tmp_path / "home")


def _evil(folder: Path, names: list[str], listed: dict[str, str]) -> Path:
    path = folder / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in [
            *((name, b"x") for name in names),
            ("contents.json", FileList("a" * 16, listed).dump()),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["../outside"], {}),
        (["/etc/outside"], {}),
        (["sweep.json"], {"../outside": "0" * 64}),
        (["sweep.json"], {"ledger/../../outside": "0" * 64}),
        (["sweep.json"], {"thesis.tex": "0" * 64}),
        (["sweep.json"], {"sweep.json": "0" * 64}),  # not the bytes that are listed
        (["sweep.json"], {"ledger/fragments/gone.parquet": "0" * 64}),
    ],
)
def test_a_bad_archive_changes_nothing(
    names: list[str], listed: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "a" / "home"
    with pytest.raises(DataError):
        merge(_evil(tmp_path, names, listed), home)
    assert not list(home.iterdir())
    assert not list(tmp_path.rglob("outside"))


def _through(data: bytes, change: Callable[[list[str]], list[str]] = lambda lines: lines) -> bytes:
    lines: list[str] = []
    sender = Sender(lines.append)
    for start in range(0, len(data), 70_000):
        sender.write(data[start : start + 70_000])
    sender.end()
    text = "".join(f"{line}\n" for line in change(["a warning of somebody else", *lines]))
    sink = io.BytesIO()
    receiver = Receiver(sink)
    for start in range(0, len(text), 9973):  # cut anywhere
        receiver.feed(text[start : start + 9973])
    receiver.finish()
    assert receiver.other_lines == ["a warning of somebody else"]
    return sink.getvalue()


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_bytes_come_through_a_log(size: int) -> None:
    data = bytes(index * 7 % 256 for index in range(size))
    assert _through(data) == data


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],  # cut off
        lambda lines: [*lines[:2], *lines[3:]],  # a line is missing
        lambda lines: [*lines[:1], lines[2], lines[1], *lines[3:]],  # another order
        lambda lines: [*lines[:1], f"{DATA}!!!", *lines[2:]],
        lambda lines: [*lines[:-1], f"{END}nothing"],
    ],
)
def test_what_does_not_come_whole_is_refused(change: Callable[[list[str]], list[str]]) -> None:
    with pytest.raises(BackendError, match="did not arrive completely"):
        _through(bytes(index % 251 for index in range(3 * BLOCK)), change)
