"""What a pool's owner refuses, and that it leaves no lock behind."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import pool_worker
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.engine import checkpoint
from orchestrator.engine.training import Training
from orchestrator.errors import (
    BackendError,
    CheckpointError,
    DataError,
    StorageError,
    SweepConflict,
)
from orchestrator.results import throughput
from orchestrator.storage import object_store as storage
from orchestrator.storage import retry as patience
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.storage.sweep_paths import SweepPaths
from tests.backends.worlds import keys, logged, pool_config, trial


def test_a_worker_that_cannot_start_leaves_no_lock_behind(tmp_path: Path, mini_data: Path) -> None:
    with FolderLock(tmp_path) as lease:
        foreign = pool_config(tmp_path, mini_data, lease.token, weights="f" * 64)
        with pytest.raises(CheckpointError, match=r"vit_mini.*fingerprint.*ffffffffffff"):
            PoolWorker(foreign, "cpu")
        with pytest.raises(BackendError, match="'nonsense'"):
            PoolWorker(
                replace(foreign, weights=pool_config(tmp_path, mini_data, "").weights), "nonsense"
            )
    with FolderLock(tmp_path, patience=0):
        pass


def test_a_worker_of_an_earlier_command_is_refused(tmp_path: Path, mini_data: Path) -> None:
    with FolderLock(tmp_path) as first:
        late = pool_config(tmp_path, mini_data, first.token)
    with FolderLock(tmp_path), pytest.raises(SweepConflict, match="no longer holds"):
        PoolWorker(late, "cpu")


def test_the_next_command_waits_for_a_worker(tmp_path: Path, mini_data: Path) -> None:
    with FolderLock(tmp_path) as lease:
        worker = PoolWorker(pool_config(tmp_path, mini_data, lease.token), "cpu")
    with pytest.raises(SweepConflict, match="still run"), FolderLock(tmp_path, patience=0):
        pass
    worker.close()
    with FolderLock(tmp_path, patience=0):
        pass


def test_a_final_trial_has_its_weights_before_its_row(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, stage="final", epochs=1)
    weights = SweepPaths(tmp_path).adapters / one.key / "adapter_model.safetensors"
    with FolderLock(tmp_path) as lease:
        worker = PoolWorker(pool_config(tmp_path, mini_data, lease.token), "cpu")
        append = worker._ledger.append
        there: list[bool] = []
        monkeypatch.setattr(
            worker._ledger, "append", lambda row: (there.append(weights.exists()), append(row))
        )
        worker.add(one, ())
        while len(worker.pool):
            worker.advance()
        worker.close()
    assert there == [True]
    assert keys(tmp_path) == {one.key}
    assert logged(tmp_path, one.key) == ["started", "recorded"]


def test_a_final_trial_of_other_test_images_is_refused(tmp_path: Path, mini_data: Path) -> None:
    search = trial(mini_data)
    with FolderLock(tmp_path) as lease:
        worker = PoolWorker(pool_config(tmp_path, mini_data, lease.token), "cpu")
        with pytest.raises(DataError, match="'orientation'"):
            worker.add(replace(search, stage="final"), ())
        worker.close()
    assert len(worker.pool) == 0


class Refusing:
    """Stands before a function and refuses its first calls as a full disk does."""

    def __init__(self, function: Any, times: int, error: Exception) -> None:
        self._function, self._left, self._error = function, times, error
        self.refused = 0

    def __call__(self, *arguments: Any) -> Any:
        if self._left:
            self._left, self.refused = self._left - 1, self.refused + 1
            raise self._error
        return self._function(*arguments)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.001)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["row", "adapter", "lock", "log", "figures"])
def test_storage_that_refuses_for_a_while_costs_nothing(
    place: str, tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name = {
        "row": (storage, "write_whole"),
        "adapter": (pool_worker, "save_tensors"),
        "lock": (pool_worker, "Worker"),
        "log": (os, "write"),
        "figures": (throughput, "append"),
    }[place]
    refusing = Refusing(getattr(owner, name), 3, FULL)
    one, said = trial(mini_data, stage="final", epochs=1), list[str]()
    with FolderLock(tmp_path) as lease:
        monkeypatch.setattr(owner, name, refusing)
        worker = PoolWorker(
            pool_config(tmp_path, mini_data, lease.token), "cpu", notify=said.append
        )
        worker.add(one, ())
        while len(worker.pool):
            worker.advance()
        worker.close()
    assert keys(tmp_path) == {one.key}
    assert (SweepPaths(tmp_path).adapters / one.key / "adapter_config.json").exists()
    if place == "log":
        assert refusing.refused == 2, "a line that cannot be written is left out"
        assert logged(tmp_path, one.key) == []
    elif place == "figures":
        assert refusing.refused > 0
    else:
        assert refusing.refused == 3
        assert len(said) == 2
        assert "trying again for up to 300 s" in said[0]
        assert "works again" in said[1]


@pytest.mark.usefixtures("quick")
def test_patience_ends_with_what_storage_said(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, epochs=1)
    with FolderLock(tmp_path) as lease:
        config = pool_config(tmp_path, mini_data, lease.token, storage_patience=0.05)
        worker = PoolWorker(config, "cpu")
        monkeypatch.setattr(storage, "write_whole", Refusing(None, 10**6, FULL))
        worker.add(one, ())
        with pytest.raises(StorageError, match=r"No space left.*run the same command again"):
            while len(worker.pool):
                worker.advance()
        worker.close()


def test_a_trial_goes_on_without_a_checkpoint_that_is_refused(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, said = trial(mini_data, epochs=6), list[str]()
    with FolderLock(tmp_path) as lease:
        config = pool_config(tmp_path, mini_data, lease.token, checkpoint_seconds=0.0)
        worker = PoolWorker(config, "cpu", notify=said.append)
        refusing = Refusing(checkpoint.write_whole, 3, FULL)
        monkeypatch.setattr(checkpoint, "write_whole", refusing)
        worker.add(one, ())
        while len(worker.pool):
            worker.advance()
        worker.close()
    assert refusing.refused == 3
    assert [text.partition(",")[0] for text in said] == ["storage refuses", "storage works again"]
    assert keys(tmp_path) == {one.key}


def test_checkpoints_that_are_refused_for_too_long_end_the_pool(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoint_seconds": 0.0, "storage_patience": 0.0}
    with FolderLock(tmp_path) as lease:
        worker = PoolWorker(pool_config(tmp_path, mini_data, lease.token, **changes), "cpu")
        monkeypatch.setattr(checkpoint, "write_whole", Refusing(None, 10**6, FULL))
        worker.add(trial(mini_data, epochs=6), ())
        with pytest.raises(StorageError, match=r"cannot write the checkpoint '.*No space left"):
            while len(worker.pool):
                worker.advance()
        worker.close()


def test_every_epoch_has_a_checkpoint_where_machines_may_go(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    save = checkpoint.CheckpointStore.save

    def counting(store: checkpoint.CheckpointStore, training: Training) -> bool:
        written.append(training.epoch)
        return save(store, training)

    monkeypatch.setattr(checkpoint.CheckpointStore, "save", counting)
    with FolderLock(tmp_path) as lease:
        config = pool_config(tmp_path, mini_data, lease.token, checkpoint_seconds=0.0)
        worker = PoolWorker(config, "cpu")
        worker.add(trial(mini_data, epochs=4), ())
        while len(worker.pool):
            worker.advance()
        worker.close()
    assert written == [1, 2, 3]
