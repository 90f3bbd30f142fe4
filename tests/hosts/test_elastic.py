"""Machines come and go while a sweep runs. Each test is a line of docs/reliability.md."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import defaultdict
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from orchestrator.storage.folder_lock import WORKERS
from tests.commands import events, results
from tests.hosts.rack import wait_for, why_not
from tests.hosts.reliability import line
from tests.hosts.standing import Command, Standing
from tests.hosts.sweeps import POOL, Disturbed, finish, sweep

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(600),
]
INTERVAL = 10.0
"""Seconds within which a new machine is used."""
EPOCHS = 12
TRIALS = 2 + 2 + 1
"""In the three stages of the first sweep below."""


def _of_few_trials(out: str) -> str:
    command = sweep(out).replace("--adapter linear", "").replace("--seeds 2", "--seeds 1")
    return command.replace("--epochs 2", f"--epochs {EPOCHS}")


def _of_many_long_trials(standing: Standing, out: str) -> str:
    """More than the nodes that are there may have in flight: there is work for another one, for
    longer than a process takes to start.
    """
    space = "lora: {rank: [1, 2, 4, 8], lr: [0.01, 0.005, 0.002, 0.001]}\n"
    (standing.shared / "many.yaml").write_text(space)
    command = sweep(out).replace("--adapter linear", "").replace("space.yaml", "many.yaml")
    return command.replace("--epochs 2", "--epochs 300")


def test_a_machine_that_joins_is_used(standing: Standing) -> None:
    disturbed = Disturbed(standing.folder("join"))
    command = standing.start(_of_many_long_trials(standing, "join"))
    with line("join") as mine:
        disturbed.reach(command, 0)
        standing.join(standing.spare)
        joined = time.time()
        wait_for("its pool", lambda: command.ended or _ready(standing, disturbed), 60)
        ready = time.time()
        (pool,) = standing.pids(standing.spare, POOL)
        first = wait_for("its trial", lambda: command.ended or _first(disturbed, pool), 60)
        assert not command.ended, command.text
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.text
        later = max(first - ready, 0.0)
        assert later < INTERVAL
        mine.found = (
            f"its pool was ready {ready - joined:.1f} s after it had joined, and trained "
            f"{later:.1f} s later"
        )
    standing.leave(standing.spare)


def _first(disturbed: Disturbed, pool: int) -> float | None:
    """When a pool's first trial began."""
    return next((event.time for event in events(disturbed.folder) if event.pid == pool), None)


def _ready(standing: Standing, disturbed: Disturbed) -> bool:
    """Whether a pool of the spare host can train: by the kernel's list, it holds the lock then."""
    inode = (disturbed.folder / WORKERS).stat().st_ino
    listed = re.findall(rf" READ +(\d+) \S+:{inode} ", Path("/proc/locks").read_text())
    return any(standing.runs_on(standing.spare, int(pid)) for pid in listed)


def test_a_machine_that_leaves_costs_an_epoch_at_most(standing: Standing) -> None:
    with line("leave") as mine:
        disturbed = Disturbed(standing.folder("leave"))
        command = standing.start(_of_few_trials("leave"))
        kept: defaultdict[str, list[int]] = defaultdict(list)
        lost = _watch(standing, disturbed, command, kept)
        standing.hosts.kill(standing.worker)
        behind = {key: kept[key][-1] for key in lost}
        finish(command)
        disturbed.check_counts(TRIALS)
        for key, epochs in kept.items():
            assert epochs == list(range(1, len(epochs) + 1)), f"{key}: an epoch without checkpoint"
        starts = {key: [e for e in events(disturbed.folder) if e.key == key] for key in lost}
        for key, seen in starts.items():
            names = [event.name for event in seen]
            assert names == ["started", "started", "recorded"], names
            assert seen[1].epoch >= behind[key], "an epoch that had a checkpoint was repeated"
            row = results(disturbed.folder)[key]
            assert [point.epoch for point in row.curve] == list(range(1, EPOCHS + 1))
        after = ", ".join(f"{seen[1].epoch} of {EPOCHS}" for seen in starts.values())
        mine.found = f"trials on it: {len(lost)}, taken up elsewhere after epoch {after}"
    standing.hosts.start(standing.worker)
    standing.join(standing.worker)


def _watch(
    standing: Standing, disturbed: Disturbed, command: Command, kept: dict[str, list[int]]
) -> list[str]:
    """Notes every checkpoint's epoch until the worker has a trial that is a few epochs old; its
    trials.
    """
    asked = 0.0
    pools: set[int] = set()
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert not command.ended, command.text
        for path in (disturbed.folder / "checkpoints").glob("*.safetensors"):
            epoch = _epoch(path)
            if epoch and epoch not in kept[path.stem]:
                kept[path.stem].append(epoch)
        if time.monotonic() > asked + 1:
            asked, pools = time.monotonic(), set(standing.pids(standing.worker, POOL))
        on_it = [key for key, pid in disturbed.running.items() if pid in pools]
        if any(len(kept[key]) >= 3 for key in on_it):
            return [key for key in on_it if kept[key]]
        time.sleep(0.01)
    raise TimeoutError("no trial on the worker")


def _epoch(path: Path) -> int:
    """Of a checkpoint; 0 if it has just gone."""
    try:
        with safe_open(path, framework="np") as file:
            return int(json.loads((file.metadata() or {})["progress"])["epoch"])
    except (OSError, SafetensorError):
        return 0


def test_a_sweep_for_gpus_shows_what_it_needs(standing: Standing) -> None:
    """What an autoscaler would start machines for."""
    with line("demand") as mine:
        command = standing.start(sweep("demand").replace("--device cpu", "--device cuda"))
        # All that may be asked for in the search stage: two configurations for each adapter.
        wanted = f"{{'GPU': {1 / 32}}} * 1 (PACK): 4+ pending placement groups"

        def asked() -> bool:
            assert not command.ended, command.text
            said = standing.hosts.run(standing.head, "ray status").text
            print(said)
            return wanted in said

        wait_for(f"the demand {wanted}", asked, 60, pause=1)
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.text
        assert not results(standing.folder("demand"))
        mine.found = "4 × 1/32 GPU pending in `ray status`; Ctrl-C ends it"
