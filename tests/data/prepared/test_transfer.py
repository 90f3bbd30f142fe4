"""Prepared tasks reach machines that share nothing with the command but an object store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator import tasks
from orchestrator.data.prepared import transfer
from orchestrator.data.prepared.store import manifest_of
from orchestrator.data.splits import open_final, open_search
from orchestrator.spec import STAGES, DataIdentity, Stage, Trial
from orchestrator.storage.object_store import ObjectStore
from orchestrator.storage.sweep_storage import SweepStorage
from tests.object_stores import Memory, memory, on_machine

__all__ = ["memory"]

SUITE = tasks.suite("mini")
TASK = SUITE.task("orientation")
URI = "s3://bucket/sweep"
FILES = ["manifest.json", "test.arrow", "train.arrow", "val.arrow"]


def trial(identity: DataIdentity, stage: Stage = "search") -> Trial:
    data = identity.read_by(stage, 1, "folds", leaks=False)
    names = ("mini", TASK.name, "vit_mini", "linear")
    return Trial(*names, {}, SUITE.recipe, 1, stage, data, "")


def test_search_fetches_what_it_may_see_and_a_final_trial_the_rest(
    memory: Memory, mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transfer.upload(SweepStorage.at(URI), SUITE, [TASK], mini_data) == ["orientation"]
    assert transfer.upload(SweepStorage.at(URI), SUITE, [TASK], mini_data) == [], "it is there"
    assert memory.names("sweep/data") == [f"{SUITE.store}/orientation/{name}" for name in FILES]

    on_machine("two", tmp_path, monkeypatch)
    storage, nowhere = SweepStorage.at(URI), tmp_path / "nowhere"
    identity = manifest_of(SUITE.store, TASK, mini_data).identity
    root = transfer.local_root(storage, SUITE, TASK, trial(identity), nowhere)
    folder = root / SUITE.store / TASK.name
    assert open_search(SUITE.store, TASK, root).identity == identity.search
    assert not (folder / "test.arrow").exists()
    assert transfer.local_root(storage, SUITE, TASK, trial(identity, "final"), nowhere) == root
    assert open_final(SUITE.store, TASK, root).identity == identity

    monkeypatch.setattr(ObjectStore, "download", lambda *_: pytest.fail("it is here"))
    assert transfer.local_root(storage, SUITE, TASK, trial(identity, "final"), nowhere) == root
    for stage in STAGES[:2]:
        own = trial(identity, stage)
        assert transfer.local_root(storage, SUITE, TASK, own, mini_data) == mini_data


def test_data_of_an_earlier_preparation_is_fetched_again(
    memory: Memory, mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its splits may have the same names and sizes."""
    other = tmp_path / "other"
    shutil.copytree(mini_data / SUITE.store / "textures", other / SUITE.store / TASK.name)
    transfer.upload(SweepStorage.at(URI), SUITE, [TASK], other)
    on_machine("two", tmp_path, monkeypatch)
    storage, nowhere = SweepStorage.at(URI), tmp_path / "nowhere"
    old = manifest_of(SUITE.store, TASK, other).identity
    root = transfer.local_root(storage, SUITE, TASK, trial(old, "final"), nowhere)

    assert transfer.upload(storage, SUITE, [TASK], mini_data) == ["orientation"]
    new = manifest_of(SUITE.store, TASK, mini_data).identity
    assert old != new
    transfer.local_root(storage, SUITE, TASK, trial(new), nowhere)
    assert open_search(SUITE.store, TASK, root).identity == new.search
    assert not (root / SUITE.store / TASK.name / "test.arrow").exists()


def test_a_folder_that_is_shared_takes_no_copies(mini_data: Path, tmp_path: Path) -> None:
    storage = SweepStorage.at(tmp_path)
    assert transfer.upload(storage, SUITE, [TASK], mini_data) == []
    other = DataIdentity("anything", "else")
    assert transfer.local_root(storage, SUITE, TASK, trial(other, "final"), mini_data) == mini_data
    assert not list(tmp_path.iterdir())
