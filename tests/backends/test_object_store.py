"""A pool whose sweep lies in an object store, on a machine that shares nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from orchestrator import tasks
from orchestrator.backends import pool_records
from orchestrator.backends.pool_config import PoolConfig
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.data.prepared import transfer
from orchestrator.errors import StorageError, SweepConflict
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.storage.lease import NAME
from orchestrator.storage.object_store import ObjectStore
from orchestrator.storage.sweep_storage import SweepStorage, paths_of
from tests.backends.worlds import TASK, pool_config, train, trial
from tests.object_stores import Memory, memory, on_machine

__all__ = ["memory"]

URI = "s3://bucket/sweep"
TOKEN = "token"


@pytest.fixture
def far(
    memory: Memory, mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PoolConfig:
    """The config as the command made it, on a machine where nothing of it is."""
    suite = tasks.suite("mini")
    storage = SweepStorage.at(URI)
    transfer.upload(storage, suite, [suite.task(TASK)], mini_data)
    lease(storage)
    nowhere = Path("/nowhere")
    config = pool_config(paths_of(URI).out, nowhere, TOKEN, uri=URI, checkpoint_seconds=0.0)
    on_machine("two", tmp_path, monkeypatch)
    return config


def lease(storage: SweepStorage, token: str = TOKEN) -> None:
    assert storage.store is not None
    storage.store.write("", NAME, f'{{"token": "{token}"}}'.encode())


def test_a_trial_goes_on_where_another_machine_left_it(
    far: PoolConfig,
    mini_data: Path,
    memory: Memory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = trial(mini_data, epochs=5)
    first = PoolWorker(far, "cpu")
    first.add(one, ())
    while first.pool.epoch(one.key) < 3:
        first.advance()
    assert memory.names("sweep/checkpoints") == [f"{one.key}.safetensors"]

    on_machine("three", tmp_path, monkeypatch)
    second = PoolWorker(far, "cpu")
    second.add(one, ())
    assert second.pool.epoch(one.key) == 3
    train(second)
    second.close()
    assert Ledger(f"{URI}/ledger").keys() == {one.key}
    assert memory.names("sweep/checkpoints") == []
    logs = memory.names("sweep/logs")
    assert len(logs) == 2, "each process has a log of its own"
    storage = SweepStorage.at(URI)
    storage.sync_down(storage.paths.pools)
    assert throughput.read(storage.paths.pools)[-1].trained > 0


PARTS = ("adapters", "predictions")


def test_weights_and_logits_are_in_the_store_before_the_row(
    far: PoolConfig, mini_data: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, stage="final", epochs=1)
    worker = PoolWorker(far, "cpu")
    there: list[list[str]] = []
    append = worker._ledger.append
    monkeypatch.setattr(
        worker._ledger,
        "append",
        lambda row: (
            there.append([n for part in PARTS for n in memory.names(f"sweep/{part}")]),
            append(row),
        ),
    )
    train(worker, one)
    worker.close()
    places = {
        "adapter_config.json": (f"adapters/{one.key}", "adapter_config.json"),
        "adapter_model.safetensors": (f"adapters/{one.key}", "adapter_model.safetensors"),
        "logits": ("predictions", f"{one.key}.safetensors"),
    }
    assert there == [[f"{one.key}/{n}" for n in list(places)[:2]] + [f"{one.key}.safetensors"]]
    (row,) = worker._ledger.results()
    stored = {name: memory.store("bucket/sweep").read(*place) for name, place in places.items()}
    assert row.files == {n: hashlib.sha256(data).hexdigest() for n, data in stored.items()}


def test_a_pool_ends_when_another_command_has_the_sweep(
    far: PoolConfig, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, epochs=2)
    worker = PoolWorker(far, "cpu")
    worker.add(one, ())
    lease(SweepStorage.at(URI), "another")
    with pytest.raises(SweepConflict, match=f"no longer holds '{URI}'"):
        train(worker)
    assert Ledger(f"{URI}/ledger").keys() == frozenset(), "the lease is read again before a row"
    with pytest.raises(SweepConflict, match="no longer holds"):
        PoolWorker(far, "cpu")


def test_records_for_people_may_fail(
    far: PoolConfig, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ObjectStore.upload

    def refusing(store: ObjectStore, source: Path, folder: str, name: str) -> None:
        if folder in ("logs", "pools"):
            raise StorageError("not now")
        upload(store, source, folder, name)

    monkeypatch.setattr(ObjectStore, "upload", refusing)
    monkeypatch.setattr(pool_records, "UPLOAD_SECONDS", 0.0)
    one = trial(mini_data, epochs=1)
    worker = PoolWorker(far, "cpu")
    train(worker, one)
    worker.close()
    assert Ledger(f"{URI}/ledger").keys() == {one.key}
