"""What a pool notes for people: which trial it started and recorded, after how many epochs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.host import PoolHost
from orchestrator.storage.folder_lock import FolderLock
from tests.backends.worlds import host_plan, trial
from tests.commands import events


def test_the_log_says_after_how_many_epochs_a_trial_was_taken_up(
    tmp_path: Path, mini_data: Path
) -> None:
    one = trial(mini_data, epochs=3)
    with FolderLock(tmp_path) as lease:
        plan = replace(host_plan(tmp_path, mini_data, lease.token), checkpoint_seconds=0.0)
        host = PoolHost(plan, "cpu")
        host.add(one, ())
        while host._pool.epoch(one.key) < 2:
            host.advance()
        host.reset()  # as after an error: the trial starts again from its checkpoint
        host.add(one, ())
        while len(host):
            host.advance()
        host.close()
    assert [(event.name, event.epoch) for event in events(tmp_path)] == [
        ("started", 0),
        ("started", 2),
        ("recorded", 3),
    ]
    assert {(event.key, event.pid) for event in events(tmp_path)} == {(one.key, os.getpid())}
