"""A sweep whose --out is in S3 (moto's, on loopback) does what one in a folder does."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import registry
from orchestrator.results.ledger import Ledger
from orchestrator.storage.lease import NAME
from orchestrator.storage.sweep_storage import SweepStorage
from tests.commands import Here, refused, results, run, small_sweep, start
from tests.object_stores import on_machine, s3_server

URI = "s3://bucket/sweeps"
TINY = (
    *("sweep", "mini", "--tasks", "textures", "--adapter", "linear", "--sampler", "grid"),
    *("--stopping", "none", "--epochs", "1", "--seeds", "2", "--replicate", "1"),
    *("--backend", "local", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_machine("one", tmp_path, monkeypatch)


def test_from_the_first_run_to_another_machine(
    s3: dict[str, str], quick: None, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("linear: {lr: [0.01, 0.001]}\n")
    sweep = [*TINY, "--space", str(space), "--out"]
    uri = f"{URI}/tiny"
    said = here([*sweep, uri])
    assert f"report: {uri}/report.html registry: {uri}/registry" in said
    trials = len(Ledger(f"{uri}/ledger").keys())
    assert trials == 2 + 2 + 2

    store = SweepStorage.at(uri).store
    assert store is not None
    there = store.walk("")
    assert b'"released": true' in store.read("", NAME)
    assert {"sweep.json", "report.html", "registry/index.json", "sheets/textures.png"} <= set(there)
    assert sum(name.startswith("asks/") for name in there) == 2
    assert not any(name.startswith(("checkpoints/", "data/")) for name in there)
    for name in there:
        folder, _, file = name.rpartition("/")
        assert s3["AWS_SECRET_ACCESS_KEY"].encode() not in store.read(folder, file)

    on_machine("two", tmp_path, monkeypatch)
    model = registry.load(f"{uri}/registry", task="textures", adapter="linear")
    assert not model.training
    assert "textures/linear 2 2 2" in here(["status", uri])
    assert "ok" in here(["audit", uri])
    assert "(1 entries)" in here(["export", uri, "--merged", str(tmp_path / "merged")])
    assert f"report: {uri}/report.html" in here(["report", uri])
    assert f"{trials} trials, {trials} of them written" in here(["track", uri])
    assert f"{trials} of about {trials} trials are recorded" in here([*sweep, uri])
    assert store.walk("").keys() == there.keys() | {
        name for name in store.walk("") if name.startswith("logs/")
    }


def test_places_that_cannot_be_are_refused_before_anything_is_done(here: Here) -> None:
    refused(here, [*TINY, "--out", "ftp://host/x"], "'ftp://'", "s3://BUCKET/NAME")
    refused(here, [*TINY, "--out", "s3://me:hush@bucket/x"], "holds credentials", "~/.aws")
    refused(here, ["status", "s3://bucket"], "names no place in a bucket")
    assert "hush" not in here([*TINY, "--out", "s3://me:hush@bucket/x"], code=2)


def test_a_bucket_that_is_not_there_is_named(s3: dict[str, str], quick: None, here: Here) -> None:
    refused(here, ["status", "s3://bucket/nothing"], "'s3://bucket/nothing' holds no sweep")
    refused(here, [*TINY, "--out", "s3://missing/x"], "cannot write 's3://missing/x/.lease.json'")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_new_head_goes_on_with_what_a_killed_one_began(
    s3: dict[str, str], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the object store alone; while the first one lives, the second is refused."""
    longer = ("--epochs", "20")  # than the test takes to look
    calm = run(small_sweep(tmp_path / "calm", "local", *longer), data_root)
    assert calm.returncode == 0, calm.stdout
    uri = f"{URI}/killed"
    sweep = [
        uri if word == str(tmp_path / "x") else word
        for word in small_sweep(tmp_path / "x", "local", *longer)
    ]
    ledger = Ledger(f"{uri}/ledger")
    on_machine("one", tmp_path, monkeypatch)
    first = start(sweep, data_root, subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(ledger.keys()) < 5:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    on_machine("two", tmp_path, monkeypatch)
    second = run(sweep, data_root)
    assert second.returncode == 2, second.stdout
    assert f"is running in '{uri}'" in second.stdout
    first.kill()
    first.wait()
    shutil.rmtree(tmp_path / "machine one")
    before = len(ledger.keys())

    third = run(sweep, data_root, timeout=300)
    assert third.returncode == 0, third.stdout
    assert "watching for 20 s whether that still runs" in third.stdout
    expected = results(tmp_path / "calm")
    found = {row.key: row for row in ledger.results()}
    assert found.keys() == expected.keys()
    assert 5 <= before < len(found)
    for key, row in found.items():
        assert row.value == pytest.approx(expected[key].value, abs=1e-5)
    storage = SweepStorage.at(uri)
    storage.sync_down(storage.paths.logs)
    lines = [text.split() for log in storage.paths.logs.glob("trials-*") for text in log.open()]
    recorded = Counter(key for _, event, key, *_ in lines if event == "recorded")
    assert set(recorded.values()) == {1}
    storage.sync_down(storage.paths.registry)
    index = registry.read_index(storage.paths.registry)
    calm_index = registry.read_index(tmp_path / "calm" / "registry")
    assert [e.key for e in index.entries] == [e.key for e in calm_index.entries]
