"""clusters/onprem.yaml, launched on three hosts as its first lines say; a sweep submitted from the
laptop, whose results come home; and the end.
"""

from __future__ import annotations

import re

import pytest

from tests.hosts.checks import (
    check_code,
    check_dashboard,
    check_results,
    check_strangers,
    check_token,
    check_tracked,
    check_tracking,
)
from tests.hosts.hosts import LAPTOP, ROOT, Hosts
from tests.hosts.image import HOME
from tests.hosts.launch import FILE, Launch, left_running, listeners
from tests.hosts.rack import wait_for, why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(500),
]
NAMES = ("head", "worker1", "worker2")
SUBMIT = (
    "orchestrate submit mini --name first --device cpu --tasks textures --adapter lora "
    "--sampler grid --stopping none --epochs 2 --seeds 1 --width 1 --out /mnt/shared/mini"
)


def _filled(hosts: Hosts) -> str:
    """The file with its values to fill in filled in, its comments too."""
    text = (ROOT / "clusters" / "onprem.yaml").read_text()
    for number, name in enumerate(NAMES):
        assert text.count(f"192.0.2.{10 + number}")
        text = text.replace(f"192.0.2.{10 + number}", hosts.addresses[name])
    return text


def _stop(launch: Launch) -> None:
    """Types the three lines that the file's own comments give for it."""
    end = launch.text[launch.text.index("# The end.") : launch.text.index("cluster_name")]
    lines = re.findall(r"^#   (\S.*)$", end, flags=re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        launch.laptop(line.replace("clusters/onprem.yaml", FILE), 120)


def _job(launch: Launch) -> str:
    """Where a driver writes that Ray Jobs starts."""
    ask = "ray job submit --address http://127.0.0.1:8265 -- printenv MLFLOW_TRACKING_URI"
    return launch.exec(ask, seconds=90)


def _submit_and_fetch(launch: Launch) -> str:
    """A sweep from the laptop, by the dashboard's tunnel alone; its results are in ~/fetched then.

    Returns what it printed.
    """
    tunnel = launch.hosts.popen(LAPTOP, f"ray dashboard {FILE}")
    try:
        wait_for("the tunnel", lambda: "127.0.0.1:8265" in listeners(launch.hosts, LAPTOP))
        launch.laptop(SUBMIT, 90)
        said = launch.laptop("orchestrate logs first --follow", 200).text
        status = launch.laptop("orchestrate status first", 90).text
        assert "first: succeeded" in status
        assert "textures/lora" in status
        launch.laptop("orchestrate fetch first ~/fetched", 90)
    finally:
        tunnel.terminate()
    return said


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
        check_tracking(launch, "head")
        assert "\nhttp://127.0.0.1:5000\n" in _job(launch)
        said = _submit_and_fetch(launch)
        rows = check_results(hosts.path(LAPTOP, f"{HOME}/fetched"), said)
        assert len({row.host for row in rows}) > 1, "the head did it alone"
        assert {row.host for row in rows} <= set(NAMES)
        check_tracked(launch, "head", rows, "/mnt/shared")
        check_token(launch, NAMES, up.text, said)
        assert set(left_running(hosts)) == set(NAMES), "until now everything ran"
        _stop(launch)
        assert left_running(hosts) == {}
