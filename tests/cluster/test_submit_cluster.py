"""A sweep from the laptop to a running cluster and back, through the dashboard's port alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator import registry
from orchestrator.results.sweep_file import read_sweep
from orchestrator.storage.sweep_paths import SweepPaths
from tests.cluster.headnode import TOKEN, Head, head_node
from tests.commands import check_once_each, results, small_sweep, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def head(mini_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with head_node(mini_data, tmp_path_factory.mktemp("submit")) as running:
        yield running


def _submit(head: Head, out: str, *more: str) -> list[str]:
    """The small sweep, submitted: two tasks, two adapters, every stage."""
    _, *words = small_sweep(
        head.laptop / "out", "ray", *more, suite="mini", tasks="orientation,textures"
    )
    words[words.index("--out") + 1] = out
    return ["submit", *words]


def test_a_sweep_is_submitted_and_fetched(head: Head) -> None:
    started = head.type(*_submit(head, str(head.laptop / "shared" / "mini"), "--name", "first"))
    assert started.returncode == 0, started.stdout
    for command in ("status", "logs --follow", "fetch"):
        assert f"orchestrate {command} first" in started.stdout
    assert "~/shared/mini" in started.stdout, "the home that the shell put in is the head's"

    listed = head.type("status")
    assert "first" in listed.stdout
    assert "~/shared/mini" in listed.stdout
    taken = head.type(*_submit(head, "~/shared/mini"))
    assert taken.returncode == 2
    assert "is used by the running sweep first" in taken.stdout

    followed = head.type("logs", "first", "--follow")
    assert followed.returncode == 0, followed.stdout
    assert "registry:" in followed.stdout, followed.stdout
    state = head.type("status", "first")
    assert state.returncode == 0, state.stdout
    assert "first: succeeded" in state.stdout
    assert "orientation/lora" in state.stdout

    again = head.type(*_submit(head, "~/shared/other", "--name", "first"))
    assert again.returncode == 2
    assert "'first' was submitted before" in again.stdout

    _check_fetched(head)
    assert TOKEN not in head.logs()


def _check_fetched(head: Head) -> None:
    there, home = head.home / "shared" / "mini", head.laptop / "runs" / "mini"
    fetched = head.type("fetch", "first")
    assert fetched.returncode == 0, fetched.stdout
    assert results(home) == results(there)
    check_once_each(there)
    assert (home / "report.html").read_bytes() == (there / "report.html").read_bytes()
    assert not (home / "asks").exists()
    assert not [path for path in home.rglob("*") if ".sync" in path.name or "fetch" in path.name]

    model = registry.load(home / "registry", "orientation", "lora")
    same = registry.load(there / "registry", "orientation", "lora")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), same(images))

    assert " 0 new files" in head.type("fetch", "first").stdout
    everything = head.type("fetch", "first", "--all")
    assert everything.returncode == 0, everything.stdout
    assert (home / "asks").is_dir()
    for command in ("status", "report", "track"):
        done = head.type(command, "runs/mini")
        assert done.returncode == 0, done.stdout
    shutil.rmtree(home / "ledger")
    assert head.type("fetch", "first").returncode == 0
    assert results(home) == results(there)

    paths = SweepPaths(home)
    replace(read_sweep(paths), id="0" * 16).write(paths)
    other = head.type("fetch", "first")
    assert other.returncode == 2
    assert "holds another sweep" in other.stdout


def test_a_sweep_that_is_stopped_ends_in_good_order(head: Head) -> None:
    started = head.type(*_submit(head, "~/shared/long", "--epochs", "400", "--name", "long"))
    assert started.returncode == 0, started.stdout
    early = head.type("status", "long")
    assert early.returncode == 0, early.stdout
    assert "long: " in early.stdout
    until((head.home / "shared" / "long" / "logs" / "trials.log").exists, 100)
    stopped = head.type("stop", "long")
    assert "is stopping" in stopped.stdout
    log = head.type("logs", "long", "--follow").stdout
    assert "stopped; nothing finished is lost" in log, log
    assert "Traceback" not in log
    assert "SIGTERM" not in log
    assert "long: stopped" in head.type("status", "long").stdout
    assert "ended already: stopped" in head.type("stop", "long").stdout
    assert head.type("fetch", "long", "here").returncode == 0
    assert (head.laptop / "here" / "sweep.json").exists()


def test_wrong_tokens_and_names_are_refused(head: Head, tmp_path: Path) -> None:
    wrong = head.type("status", RAY_AUTH_TOKEN="6" * 64)
    assert wrong.returncode == 2
    assert "refuses this machine's token" in wrong.stdout
    without = head.type("status", HOME=str(tmp_path))
    assert without.returncode == 2
    assert "asks for its token, and there is none here" in without.stdout
    for said in (wrong.stdout, without.stdout):
        assert said.count("\n") == 1, said

    unknown = head.type("logs", "frist")
    assert unknown.returncode == 2
    assert "unknown sweep" in unknown.stdout
    misspelt = head.type(*_submit(head, "~/shared/mini", "--adapter", "lorra"))
    assert misspelt.returncode == 2
    assert "Did you mean 'lora'?" in misspelt.stdout
