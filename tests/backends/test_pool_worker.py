"""What a pool's owner refuses and writes, and that it leaves no lock behind."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends import pool_worker as module
from orchestrator.backends.pool_records import group_use
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.engine import checkpoint
from orchestrator.engine.pool import Pool
from orchestrator.engine.training import Training
from orchestrator.errors import (
    BackendError,
    CheckpointError,
    DataError,
    StorageError,
    SweepConflict,
)
from orchestrator.results import predictions, throughput
from orchestrator.results.ledger import Ledger
from orchestrator.spec import fold_of
from orchestrator.storage import object_store, retry
from orchestrator.storage.folder_lock import FolderLock
from orchestrator.storage.sweep_paths import SweepPaths
from tests.backends.worlds import keys, pool_config, pool_worker, train, trial
from tests.commands import events
from tests.engine import worlds


def test_a_worker_that_cannot_start_leaves_no_lock_behind(tmp_path: Path, mini_data: Path) -> None:
    with FolderLock(tmp_path) as lock:
        own = pool_config(tmp_path, mini_data, lock.token)
        with pytest.raises(CheckpointError, match=r"vit_mini.*fingerprint.*ffffffffffff"):
            PoolWorker(replace(own, weights="f" * 64), "cpu")
        with pytest.raises(BackendError, match="'nonsense'"):
            PoolWorker(own, "nonsense")
    with FolderLock(tmp_path, timeout=0), pytest.raises(SweepConflict, match="no longer holds"):
        PoolWorker(own, "cpu")  # of an earlier command


def test_the_next_command_waits_for_a_worker(tmp_path: Path, mini_data: Path) -> None:
    with FolderLock(tmp_path) as lock:
        worker = PoolWorker(pool_config(tmp_path, mini_data, lock.token), "cpu")
    with pytest.raises(SweepConflict, match="still run"), FolderLock(tmp_path, timeout=0):
        pass
    worker.close()
    with FolderLock(tmp_path, timeout=0):
        pass


def test_a_trial_of_other_images_is_refused(tmp_path: Path, mini_data: Path) -> None:
    one = trial(mini_data)
    with pool_worker(tmp_path, mini_data) as worker:
        with pytest.raises(DataError, match="'orientation'"):
            worker.add(replace(one, stage="final"), ())
        with pytest.raises(DataError, match=r"'orientation'.*ffffffffffff"):
            worker.add(replace(one, data="f" * 64), ())
        fold = replace(one, data=fold_of(one.data, 2), stage="replicate", seed=2)
        for wrong in (replace(fold, stage="search"), replace(fold, seed=1)):
            with pytest.raises(DataError, match="'orientation'"):
                worker.add(wrong, ())
        assert len(worker.pool) == 0
        worker.add(fold, ())
        assert len(worker.pool) == 1


class Refusing:
    """Stands before a function and fails its first calls as a full disk does."""

    def __init__(self, function: Any, times: int) -> None:
        self._function, self._left, self.refused = function, times, 0

    def __call__(self, *arguments: Any) -> Any:
        if self.refused < self._left:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._function(*arguments)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.001)


RETRIED = ["storage refuses", "storage works again"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (object_store, "write_whole"),
        (module, "save_tensors"),
        (predictions, "write_whole"),
        (module, "Worker"),
    ],
)
def test_a_write_that_fails_for_a_while_is_retried(
    owner: Any, name: str, tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(getattr(owner, name), 3)
    monkeypatch.setattr(owner, name, refusing)
    one, messages = trial(mini_data, stage="final", epochs=1), list[str]()
    with pool_worker(tmp_path, mini_data, messages.append) as worker:
        train(worker, one)
    assert keys(tmp_path) == {one.key}
    paths = SweepPaths(tmp_path)
    assert (paths.adapters / one.key / "adapter_config.json").exists()
    (row,) = Ledger(paths.ledger).results()
    found = predictions.load(paths, row)
    assert found is not None
    assert (found.probabilities.argmax(1) == found.labels).astype("u1").tobytes() == row.correct
    assert refusing.refused == 3
    assert [text.partition(",")[0] for text in messages] == RETRIED
    assert "trying again for up to 300 s" in messages[0]


def test_records_for_people_may_fail(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing(throughput.append, 3)
    monkeypatch.setattr(throughput, "append", refusing)
    SweepPaths(tmp_path).trial_log.mkdir(parents=True)  # no file can be written there
    one = trial(mini_data, epochs=1)
    with pool_worker(tmp_path, mini_data) as worker:
        train(worker, one)
    assert keys(tmp_path) == {one.key}
    assert refusing.refused


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("owner", "message", "changes"),
    [
        (object_store, r"No space left.*run the same command again", {"storage_timeout": 0.05}),
        (
            checkpoint,
            r"cannot write the checkpoint '.*No space left",
            {"storage_timeout": 0.0, "checkpoint_seconds": 0.0},
        ),
    ],
)
def test_storage_that_fails_for_too_long_ends_the_pool(
    owner: Any,
    message: str,
    changes: dict[str, float],
    tmp_path: Path,
    mini_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pool_worker(tmp_path, mini_data, **changes) as worker:
        monkeypatch.setattr(owner, "write_whole", Refusing(None, 10**6))
        with pytest.raises(StorageError, match=message):
            train(worker, trial(mini_data))


def test_a_trial_continues_without_a_checkpoint_that_cannot_be_written(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, messages = trial(mini_data, epochs=6), list[str]()
    with pool_worker(tmp_path, mini_data, messages.append, checkpoint_seconds=0.0) as worker:
        refusing = Refusing(checkpoint.write_whole, 3)
        monkeypatch.setattr(checkpoint, "write_whole", refusing)
        train(worker, one)
    assert refusing.refused == 3
    assert [text.partition(",")[0] for text in messages] == RETRIED
    assert keys(tmp_path) == {one.key}


def test_every_epoch_has_a_checkpoint_where_machines_may_leave(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    save = checkpoint.CheckpointStore.save

    def counting(store: checkpoint.CheckpointStore, training: Training) -> bool:
        written.append(training.epoch)
        return save(store, training)

    monkeypatch.setattr(checkpoint.CheckpointStore, "save", counting)
    one = trial(mini_data, epochs=4)
    with pool_worker(tmp_path, mini_data, checkpoint_seconds=0.0) as worker:
        worker.add(one, ())
        while worker.pool.epoch(one.key) < 2:
            worker.advance()
        worker.reset()  # as after an error: the trial starts again from its checkpoint
        train(worker, one)
    assert written == [1, 2, 3]
    assert [(event.name, event.epoch) for event in events(tmp_path)] == [
        ("started", 0),
        ("started", 2),
        ("recorded", 4),
    ]
    assert {(event.key, event.pid) for event in events(tmp_path)} == {(one.key, os.getpid())}


def test_groups_without_trials_are_recorded_like_others() -> None:
    pool = Pool(worlds.backbone(), worlds.CPU, width=3)
    for adapter in ("lora", "hta"):
        pool.add(worlds.trial(adapter, epochs=1, warmup_epochs=0), worlds.search_data())
    during = group_use(pool.groups)
    while len(pool):
        pool.advance()
    lora, hta = group_use(pool.groups)
    assert (lora.apart, hta.apart) == ("", "adapter (lora, hta)")
    assert [use.apart for use in during] == [lora.apart, hta.apart]
    assert (lora.trained, lora.width, lora.bound) == (40, 3, "as asked for")
