"""A pool whose sweep lies in an object store, on a machine that shares nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import tasks
from orchestrator.backends import notes
from orchestrator.backends.host import PoolHost
from orchestrator.backends.plan import HostPlan
from orchestrator.data.prepared import travel
from orchestrator.errors import StorageError, SweepConflict
from orchestrator.results import throughput
from orchestrator.results.ledger import Ledger
from orchestrator.storage.lease import NAME
from orchestrator.storage.object_store import ObjectStore
from orchestrator.storage.sweep_storage import SweepStorage, paths_of
from tests.backends.worlds import TASK, host_plan, trial
from tests.object_stores import Memory, memory, on_machine

__all__ = ["memory"]

URI = "s3://bucket/sweep"
TOKEN = "token"


@pytest.fixture
def far(
    memory: Memory, mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> HostPlan:
    """The plan as the command made it, on a machine where nothing of it is."""
    suite = tasks.suite("mini")
    storage = SweepStorage.at(URI)
    travel.publish(storage, suite, [suite.task(TASK)], mini_data)
    lease(storage)
    nowhere = Path("/nowhere")
    plan = host_plan(paths_of(URI).out, nowhere, TOKEN, uri=URI, checkpoint_seconds=0.0)
    on_machine("two", tmp_path, monkeypatch)
    return plan


def lease(storage: SweepStorage, token: str = TOKEN) -> None:
    assert storage.store is not None
    storage.store.write("", NAME, f'{{"token": "{token}"}}'.encode())


def run(host: PoolHost, epochs: int = 1000) -> None:
    """Steps until nothing is left, or a checkpoint of that many epochs is published."""
    while len(host) and not any(t.epoch >= epochs for t in host._pool._trainings.values()):
        host.advance()


def test_a_trial_goes_on_where_another_machine_left_it(
    far: HostPlan, mini_data: Path, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, epochs=5)
    first = PoolHost(far, "cpu")
    first.add(one, ())
    run(first, epochs=3)
    assert memory.names("sweep/checkpoints") == [f"{one.key}.safetensors"]

    on_machine("three", tmp_path, monkeypatch)
    second = PoolHost(far, "cpu")
    second.add(one, ())
    assert second._pool._trainings[one.key].epoch == 3
    run(second)
    second.close()
    assert Ledger(f"{URI}/ledger").keys() == {one.key}
    assert memory.names("sweep/checkpoints") == []
    logs = memory.names("sweep/logs")
    assert len(logs) == 2, "each process has a log of its own"
    storage = SweepStorage.at(URI)
    storage.sync_down(storage.paths.pools)
    assert throughput.read(storage.paths.pools)[-1].trained > 0


def test_weights_are_in_the_store_before_the_row(
    far: HostPlan, mini_data: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, stage="final", epochs=1)
    host = PoolHost(far, "cpu")
    there: list[list[str]] = []
    append = host._ledger.append
    monkeypatch.setattr(
        host._ledger,
        "append",
        lambda row: (there.append(memory.names("sweep/adapters")), append(row)),
    )
    host.add(one, ())
    run(host)
    host.close()
    assert there == [
        [f"{one.key}/adapter_config.json", f"{one.key}/adapter_model.safetensors"],
    ]


def test_a_pool_ends_when_another_command_has_the_sweep(
    far: HostPlan, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, epochs=2)
    host = PoolHost(far, "cpu")
    host.add(one, ())
    lease(SweepStorage.at(URI), "another")
    with pytest.raises(SweepConflict, match=f"no longer holds '{URI}'"):
        run(host)
    assert Ledger(f"{URI}/ledger").keys() == frozenset(), "not even before it looks again"
    with pytest.raises(SweepConflict, match="no longer holds"):
        PoolHost(far, "cpu")


def test_what_is_for_people_may_fail(
    far: HostPlan, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ObjectStore.upload

    def refusing(store: ObjectStore, source: Path, folder: str, name: str) -> None:
        if folder in ("logs", "pools"):
            raise StorageError("not now")
        upload(store, source, folder, name)

    monkeypatch.setattr(ObjectStore, "upload", refusing)
    monkeypatch.setattr(notes, "PERIOD", 0.0)
    one = trial(mini_data, epochs=1)
    host = PoolHost(far, "cpu")
    host.add(one, ())
    run(host)
    host.close()
    assert Ledger(f"{URI}/ledger").keys() == {one.key}
