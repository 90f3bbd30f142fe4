"""clusters/onprem.yaml, launched on three hosts as its first lines say; a sweep; and the end."""

from __future__ import annotations

import re

import pytest

from tests.cluster.checks import (
    check_code,
    check_dashboard,
    check_results,
    check_strangers,
    check_token,
)
from tests.cluster.hosts import LAPTOP, ROOT, Hosts
from tests.cluster.image import HOME
from tests.cluster.launch import Launch, left_running
from tests.cluster.support import why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(500),
]
NAMES = ("head", "worker1", "worker2")
SWEEP = (
    "orchestrate sweep mini --address auto --device cpu --tasks textures --adapter lora "
    "--sampler grid --stopping none --epochs 2 --seeds 1 --width 1 --out /mnt/shared/mini "
    "--tracking-uri sqlite:///$HOME/mlflow.db"
)


def _filled(hosts: Hosts) -> str:
    """The file with its values to fill in filled in, its comments too."""
    text = (ROOT / "clusters" / "onprem.yaml").read_text()
    for number, name in enumerate(NAMES):
        assert text.count(f"192.0.2.{10 + number}")
        text = text.replace(f"192.0.2.{10 + number}", hosts.addresses[name])
    return text


def _stop(launch: Launch) -> None:
    """Types the two lines that the file's own comments give for it."""
    down = re.findall(r"^# +(ray down .*?)(?: +#.*)?$", launch.text, flags=re.MULTILINE)
    workers = re.findall(r"^# +(for ip in .*)$", launch.text, flags=re.MULTILINE)
    assert len(down) == len(workers) == 1
    launch.laptop(down[0].replace("clusters/onprem.yaml", "~/cluster.yaml"), 120)
    launch.laptop(workers[0], 120)


def test_from_up_to_down() -> None:
    with Hosts(*NAMES, shared="/mnt/shared") as hosts:
        ssh = "Host *\nStrictHostKeyChecking no\nLogLevel ERROR\n"
        hosts.path(LAPTOP, f"{HOME}/.ssh/config").write_text(ssh)
        launch = Launch(hosts, _filled(hosts))
        up = launch.up()
        launch.wait_for_nodes(*NAMES)
        check_code(launch, *NAMES)
        check_strangers(launch, "head")
        check_dashboard(launch, "head")
        said = launch.exec(SWEEP, seconds=200)
        rows = check_results(launch, said, "/mnt/shared/mini")
        assert len({row.host for row in rows}) > 1, "the head did it alone"
        assert {row.host for row in rows} <= set(NAMES)
        check_token(launch, NAMES, up.text, said)
        assert set(left_running(hosts)) == set(NAMES), "until now everything ran"
        _stop(launch)
        assert left_running(hosts) == {}
