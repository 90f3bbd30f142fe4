"""The kill matrix: processes and machines. Each test is a line of docs/reliability.md."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.commands import check_once_each, results
from tests.hosts.rack import wait_for, why_not
from tests.hosts.reliability import line
from tests.hosts.standing import SHARED, Standing
from tests.hosts.sweeps import POOL, TRIALS, WAITING, Disturbed, amid, finish, sweep

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(600),
]
SEED = os.environ.get("KILL_SEED", "0")
"""Of the random moments; any text."""


def test_the_command_is_killed_at_random_moments(standing: Standing, calm: Path) -> None:
    rng = random.Random(f"driver {SEED}")
    # While it starts, while trials run (after so many more of them), and while it concludes.
    early = [(0, rng.uniform(0, 8)) for _ in range(2)]
    amid = [(rng.randint(1, 2), rng.uniform(0, 1)) for _ in range(3)]
    late = [(TRIALS, rng.uniform(0, 5))]
    moments = sorted([*early, *amid], key=lambda _: rng.random()) + late
    disturbed, killed, inside = Disturbed(standing.folder("driver")), 0, 0
    with line("driver") as mine:
        for more, delay in moments:
            command = standing.start(sweep("driver"))
            if more:
                wanted = min(disturbed.recorded + more, TRIALS)
                disturbed.reach(command, wanted, busy=False)
            time.sleep(delay)
            killed += not command.ended
            inside += bool(disturbed.running)
            command.signal(signal.SIGKILL)
            command.wait()
            check_once_each(disturbed.folder)
        standing.run(sweep("driver"))
        disturbed.check(calm)
        assert killed >= len(moments) - 1, "the moments came too late"
        assert inside >= 1, "the moments missed the training"
        mine.found = f"kills: {killed} ({inside} with trials running), trials: {TRIALS}"


def test_trainables_are_killed_and_then_a_pool(standing: Standing, calm: Path) -> None:
    """Two lines, one sweep."""
    with line("trainable") as trainables, line("pool") as pool:
        disturbed, command = amid(standing, "processes", 0.25)
        hosts = (standing.head, standing.worker)
        waiting = {host: pids for host in hosts if (pids := standing.pids(host, WAITING))}
        for host, pids in waiting.items():
            standing.kill(host, pids)
        killed = sum(map(len, waiting.values()))
        assert killed
        disturbed.reach(command, TRIALS // 2)
        before = disturbed.taken_up
        busy = wait_for(
            "a busy pool", lambda: next(filter(partial(_busy, standing, disturbed), hosts), None)
        )
        standing.kill(busy, standing.pids(busy, POOL))
        finish(command)
        disturbed.check(calm)
        trainables.found = f"processes killed: {killed}, trials: {TRIALS}"
        pool.found = f"trials taken up elsewhere: {disturbed.taken_up - before} of {TRIALS}"


def _busy(standing: Standing, disturbed: Disturbed, host: str) -> bool:
    """Whether a trial is in a pool of this host."""
    return bool(set(standing.pids(host, POOL)) & set(disturbed.running.values()))


def test_a_worker_is_switched_off(standing: Standing, calm: Path) -> None:
    with line("node") as mine:
        disturbed, command = amid(standing, "node", 0.25)
        wait_for("a trial on the worker", lambda: _busy(standing, disturbed, standing.worker), 60)
        standing.hosts.kill(standing.worker)
        finish(command)
        disturbed.check(calm)
        mine.found = f"trials taken up elsewhere: {disturbed.taken_up} of {TRIALS}"
    standing.hosts.start(standing.worker)
    standing.join(standing.worker)


def test_the_head_is_switched_off(standing: Standing, calm: Path) -> None:
    with line("head") as mine:
        disturbed, command = amid(standing, "head", 0.5)
        standing.hosts.kill(standing.head)
        command.wait()
        standing.change_head()
        before = disturbed.recorded  # not earlier: the worker's pool goes on until Ray ends there
        said = standing.run(sweep("head"))
        assert f"{before} of about {TRIALS} trials are recorded" in said
        disturbed.check(calm)
        mine.found = f"recorded before: {before} of {TRIALS}, taken up: {disturbed.taken_up}"


def test_a_second_command_is_refused_and_ctrl_c_stops_the_first(
    standing: Standing, calm: Path
) -> None:
    """Two lines, one sweep: the first command has to go on undisturbed until Ctrl-C."""
    with line("SIGINT") as mine, line("two") as other:
        disturbed, command = amid(standing, "interrupted", 0.25)
        other.found = _refused(standing, disturbed)
        disturbed.reach(command, disturbed.recorded + 1)
        command.signal(signal.SIGINT)
        assert command.wait() == 130, command.text
        before = disturbed.recorded
        assert before < TRIALS, "it had ended"
        (again,) = re.findall(r"nothing finished is lost\. To go on: (.*)", command.text)
        said = standing.run(again)
        assert f"{before} of about {TRIALS} trials are recorded" in said
        disturbed.check(calm)
        mine.found = f"recorded before: {before} of {TRIALS}"


def _refused(standing: Standing, disturbed: Disturbed) -> str:
    again = sweep(disturbed.folder.name)
    seconds = [standing.start(again, host) for host in (standing.head, standing.worker)]
    for second in seconds:
        assert second.wait() == 2, second.text
        assert "another command (process" in second.text
        assert f"on {standing.head}, since" in second.text
    return "refused with code 2: 2, one on each host"


KILLS = 2
"""Of the asynchronous sweep."""


def test_an_asynchronous_search_is_killed(standing: Standing) -> None:
    rng = random.Random(f"asynchronous {SEED}")
    space = "lora: {rank: [2, 4, 8, 16], lr: {low: 1.0e-5, high: 0.02, log: true}}\n"
    (standing.shared / "wide.yaml").write_text(space)
    command = (
        sweep("asynchronous").replace("--adapter linear", "").replace("space.yaml", "wide.yaml")
    )
    for option, value in {"sampler": "tpe", "stopping": "asha", "epochs": "4"}.items():
        command = re.sub(rf"--{option} \S+", f"--{option} {value}", command)
    command += " --trials 6"
    disturbed = Disturbed(standing.folder("asynchronous"))
    with line("asynchronous") as mine:
        for _ in range(KILLS):
            running = standing.start(command)
            disturbed.reach(running, disturbed.recorded + rng.randint(0, 2))
            time.sleep(rng.uniform(0, 0.5))
            running.signal(signal.SIGKILL)
            running.wait()
        standing.run(command)
        rows = results(disturbed.folder).values()
        disturbed.check_counts(len(rows))
        searched = [row for row in rows if row.trial.stage == "search"]
        finals = [row for row in rows if row.trial.stage == "final"]
        assert len(searched) == 6, "the budget is met"
        assert len({row.trial.config for row in searched}) == 6, "a configuration twice"
        assert {row.status for row in searched} <= {"finished", "stopped"}
        assert len({row.trial.config for row in finals}) == 1
        assert [row.test_reads for row in finals] == [1, 1]
        standing.run(f"orchestrate audit {SHARED}/asynchronous")
        stopped = sum(row.status == "stopped" for row in searched)
        mine.found = f"kills: {KILLS}, trials: {len(rows)} ({stopped} stopped early)"
