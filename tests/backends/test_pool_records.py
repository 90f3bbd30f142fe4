"""Records for people: which trial a pool started and recorded, and its groups."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.pool_records import group_use
from orchestrator.backends.pool_worker import PoolWorker
from orchestrator.engine.pool import Pool
from orchestrator.storage.folder_lock import FolderLock
from tests.backends.worlds import pool_config, trial
from tests.commands import events
from tests.engine import worlds


def test_the_log_says_after_how_many_epochs_a_trial_was_taken_up(
    tmp_path: Path, mini_data: Path
) -> None:
    one = trial(mini_data, epochs=3)
    with FolderLock(tmp_path) as lease:
        config = replace(pool_config(tmp_path, mini_data, lease.token), checkpoint_seconds=0.0)
        worker = PoolWorker(config, "cpu")
        worker.add(one, ())
        while worker.pool.epoch(one.key) < 2:
            worker.advance()
        worker.reset()  # as after an error: the trial starts again from its checkpoint
        worker.add(one, ())
        while len(worker.pool):
            worker.advance()
        worker.close()
    assert [(event.name, event.epoch) for event in events(tmp_path)] == [
        ("started", 0),
        ("started", 2),
        ("recorded", 3),
    ]
    assert {(event.key, event.pid) for event in events(tmp_path)} == {(one.key, os.getpid())}


def test_groups_without_trials_are_reported_like_others() -> None:
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
