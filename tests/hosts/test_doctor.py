"""`orchestrate doctor` on three hosts, without and with problems; the sweeps that they prevent."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import tasks
from tests.hosts.hosts import Done, Hosts
from tests.hosts.image import HOME
from tests.hosts.rack import wait_for, why_not
from tests.hosts.standing import NAMES, SHARED, Standing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(400),
]
PREPARED = "textures"
"""The task whose data lies on the head and on worker1, at the same path; there are no others."""


@pytest.fixture(scope="module")
def hosts(standing: Standing, mini_data: Path) -> Iterator[Hosts]:
    """The shared cluster with its spare host as a third node."""
    assert (standing.head, standing.worker, standing.spare) == NAMES
    for name in (standing.head, standing.worker):
        target = standing.hosts.path(name, f"{HOME}/data/mini/{PREPARED}")
        shutil.copytree(mini_data / "mini" / PREPARED, target)
    standing.join(standing.spare)
    yield standing.hosts
    standing.leave(standing.spare)


def _type(hosts: Hosts, command: str, code: int) -> str:
    """What a command on the head prints, in one line as far as it is compared."""
    done: Done = hosts.run("head", f"cd ~; {command}", check=False, timeout=150)
    print(f"$ {command}\n{done.text}(exit code {done.code}, {done.seconds:.0f} s)\n")
    assert done.code == code, done.text
    return " ".join(done.text.split())


def _workers(hosts: Hosts) -> list[str]:
    """Ray's processes that work for a command."""
    lines = [line for name in NAMES for line in hosts.processes(name)]
    return [line for line in lines if re.match(r"ray::(?!.*Agent)", line)]


def _files(hosts: Hosts) -> dict[str, list[str]]:
    """What lies in every place that the doctor was shown."""
    look = f"ls -A ~ {SHARED} ~/data 2>&1; ls -A ~/own 2>/dev/null"
    return {name: hosts.run(name, look, check=False).text.split() for name in NAMES}


def test_a_cluster_that_is_well(hosts: Hosts) -> None:
    before = _files(hosts)
    said = _type(
        hosts,
        f"orchestrate doctor --address auto --suite mini --out {SHARED}/mini "
        "--tracking-uri sqlite:///$HOME/mlflow.db",
        code=0,
    )
    tasks_of_mini = len(tasks.suite("mini").tasks)
    for told in (
        "ok cluster 3 nodes answer: head, worker1, worker2",
        "the same on every node ok versions Python 3.",
        f"ok shared {SHARED}/mini (tmpfs) is written and read back on every node",
        "ok locks are kept on every node",
        f"ok data mini, {tasks_of_mini} tasks prepared, the same on every node",
        "ok clocks agree within",
        "nothing is wrong",
    ):
        assert told in said, told
    assert "WRONG" not in said
    assert "warn" not in said
    assert _files(hosts) == before, "it leaves no file"
    wait_for("Ray's workers to end", lambda: not _workers(hosts), seconds=20, pause=1)


def test_a_sweep_in_a_folder_that_is_not_shared_is_refused_before_any_trial(hosts: Hosts) -> None:
    sweep = "orchestrate sweep mini --address auto --device cpu --tasks textures --adapter lora"
    said = _type(hosts, f"{sweep} --out ~/runs/mini", code=2)
    assert f"the output folder '{HOME}/runs/mini' is not shared" in said
    assert "(worker1, worker2: there is no such folder)" in said
    for way in ("NFS", "s3://", "one node"):
        assert way in said
    assert "Traceback" not in said
    for name in NAMES[1:]:
        assert "runs" not in hosts.run(name, "ls -A ~").text.split(), "looking makes no folder"
    assert not hosts.path("head", f"{HOME}/runs/mini/ledger").exists(), "no trial was recorded"
    said = _type(hosts, f"{sweep} --out {SHARED}/x --data-root ~/data", code=2)
    assert f"the prepared data in '{HOME}/data' is not on worker2. Give --data-root" in said


def test_everything_that_is_wrong_is_named_with_its_node_and_the_fix(hosts: Hosts) -> None:
    site = "python -c \"import sysconfig; print(sysconfig.get_path('purelib'))\""
    metadata = f"$({site})/timm-*.dist-info/METADATA"
    hosts.run("worker1", f"sed -i.own 's/^Version: .*/Version: 0.9.9/' {metadata}")
    hosts.run("worker1", "echo '# changed' >> ~/code/orchestrator/sweep.py")
    hosts.run("worker2", "mkdir ~/own")
    try:
        _check_everything_wrong(hosts)
    finally:  # other tests need the cluster in order
        hosts.run("worker1", f"for file in {metadata}; do mv $file.own $file; done")
        hosts.run("worker1", "sed -i '$d' ~/code/orchestrator/sweep.py")


def _check_everything_wrong(hosts: Hosts) -> None:
    before = _files(hosts)
    said = _type(
        hosts,
        "orchestrate doctor --address auto --suite mini --out ~/own --data-root ~/data "
        "--tracking-uri http://127.0.0.1:5000",
        code=1,
    )
    for told in (
        "WRONG code worker1: other code than this command's (orchestrator/sweep.py)",
        "WRONG versions worker1: timm 0.9.9, this command has",
        f"WRONG shared {HOME}/own is not shared with worker1: there is no such folder; worker2: a "
        "folder of its own (overlay)",
        f"WRONG data worker2: {PREPARED} is missing in {HOME}/data",
        "WRONG tracking http://127.0.0.1:5000 does not answer (Connection refused)",
    ):
        assert told in said, told
    assert f"warn data {HOME}/data is not shared with worker1: a folder of its own" in said
    assert said.count("WRONG") == 5
    assert said.count("→") == 6, "each comes with its fix"
    assert "5 wrong, 1 warning" in said
    assert _files(hosts) == before, "it leaves no file"
    wait_for("Ray's workers to end", lambda: not _workers(hosts), seconds=20, pause=1)


def test_without_the_token_the_cluster_cannot_be_reached(hosts: Hosts) -> None:
    said = _type(hosts, f"env RAY_AUTH_TOKEN={'0' * 64} orchestrate doctor --address auto", code=2)
    assert "cannot be used" in said
    assert "Traceback" not in said
