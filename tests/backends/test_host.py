"""What a pool's owner refuses, and that it leaves no lock behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.backends.host import PoolHost
from orchestrator.errors import BackendError, CheckpointError, DataError, SweepConflict
from orchestrator.lease import SweepLease
from orchestrator.places import Places
from tests.backends.worlds import host_plan, keys, logged, trial


def test_a_host_that_cannot_start_leaves_no_lock_behind(tmp_path: Path, mini_data: Path) -> None:
    with SweepLease(tmp_path) as lease:
        foreign = host_plan(tmp_path, mini_data, lease.token, weights="f" * 64)
        with pytest.raises(CheckpointError, match=r"vit_mini.*fingerprint.*ffffffffffff"):
            PoolHost(foreign, "cpu")
        with pytest.raises(BackendError, match="'nonsense'"):
            PoolHost(
                replace(foreign, weights=host_plan(tmp_path, mini_data, "").weights), "nonsense"
            )
    with SweepLease(tmp_path, patience=0):
        pass


def test_a_host_of_an_earlier_command_is_refused(tmp_path: Path, mini_data: Path) -> None:
    with SweepLease(tmp_path) as first:
        late = host_plan(tmp_path, mini_data, first.token)
    with SweepLease(tmp_path), pytest.raises(SweepConflict, match="no longer holds"):
        PoolHost(late, "cpu")


def test_the_next_command_waits_for_a_host(tmp_path: Path, mini_data: Path) -> None:
    with SweepLease(tmp_path) as lease:
        host = PoolHost(host_plan(tmp_path, mini_data, lease.token), "cpu")
    with pytest.raises(SweepConflict, match="still run"), SweepLease(tmp_path, patience=0):
        pass
    host.close()
    with SweepLease(tmp_path, patience=0):
        pass


def test_a_final_trial_has_its_weights_before_its_row(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trial(mini_data, stage="final", epochs=1)
    weights = Places(tmp_path).adapters / one.key / "adapter_model.safetensors"
    with SweepLease(tmp_path) as lease:
        host = PoolHost(host_plan(tmp_path, mini_data, lease.token), "cpu")
        append = host._ledger.append
        there: list[bool] = []
        monkeypatch.setattr(
            host._ledger, "append", lambda row: (there.append(weights.exists()), append(row))
        )
        host.add(one, ())
        while len(host):
            host.advance()
        host.close()
    assert there == [True]
    assert keys(tmp_path) == {one.key}
    assert logged(tmp_path, one.key) == ["started", "recorded"]


def test_a_final_trial_of_other_test_images_is_refused(tmp_path: Path, mini_data: Path) -> None:
    search = trial(mini_data)
    with SweepLease(tmp_path) as lease:
        host = PoolHost(host_plan(tmp_path, mini_data, lease.token), "cpu")
        with pytest.raises(DataError, match="'orientation'"):
            host.add(replace(search, stage="final"), ())
        host.close()
    assert len(host) == 0
