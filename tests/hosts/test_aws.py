"""cluster.yaml, launched against a mock AWS that starts a simulated host for every instance.

Filled in: the security group and the image, as its first lines tell a person to do.
"""

from __future__ import annotations

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
from tests.hosts.cloud import Cloud
from tests.hosts.hosts import ROOT
from tests.hosts.launch import Launch
from tests.hosts.rack import wait_for, why_not

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(500),
]
TEXT = (ROOT / "cluster.yaml").read_text()
SWEEP = (
    "orchestrate sweep mini --address auto --device cpu --tasks textures --adapter lora "
    "--sampler grid --stopping none --epochs 2 --seeds 1 --out ~/shared/mini"
)
ASK = """
import ray
from ray.autoscaler.sdk import request_resources
ray.init(address="auto", logging_level="ERROR")
request_resources(bundles=[{"GPU": 1}])
"""


def _ask_for_a_gpu(launch: Launch, head: str) -> None:
    """As a sweep with --device cuda does; no host here has one to train on."""
    launch.hosts.path(head, "/home/ubuntu/ask.py").write_text(ASK)
    launch.exec("python ~/ask.py")


def test_from_up_to_down() -> None:
    with Cloud() as cloud:
        launch = Launch(cloud.hosts, cloud.fill_in(TEXT))
        up = launch.up()
        (head,) = cloud.alive
        assert not head.spot, "a sweep's driver must not be taken away"
        check_strangers(launch, head.id)
        check_dashboard(launch, head.id)
        check_tracking(launch, head.id)

        _ask_for_a_gpu(launch, head.id)
        said = launch.exec(SWEEP, seconds=200)
        wait_for("a worker", lambda: len(cloud.alive) == 2)
        worker = cloud.alive[1]
        assert worker.spot
        launch.wait_for_nodes(head.id, worker.id)
        check_code(launch, head.id, worker.id)
        mounted = "mountpoint -q ~/shared && ls ~/shared/mini/ledger/fragments | wc -l"
        rows = check_results(launch.fetch("~/shared/mini"), said)
        assert int(cloud.hosts.run(worker.id, mounted).text) == len(rows)
        check_tracked(launch, head.id, rows, "~/shared")
        check_token(launch, (head.id, worker.id), up.text, said)

        launch.laptop("ray down -y ~/cluster.yaml", 120)
        assert cloud.alive == []
        assert cloud.hosts.running == ["laptop"]


def test_where_spot_machines_are_sold_out_a_person_switches_to_the_full_price() -> None:
    """Ray 2.60 asks for the same kind again and again; the file says what to do about it."""
    with Cloud(spot=False) as cloud:
        launch = Launch(cloud.hosts, cloud.fill_in(TEXT))
        launch.up()
        (head,) = cloud.alive
        _ask_for_a_gpu(launch, head.id)
        wait_for("AWS to refuse", lambda: cloud.refused > 1, seconds=60)
        assert cloud.alive == [head]

        before = "max_workers: 8  # none left to buy? write 0 here"
        assert launch.text.count(before) == 1
        text = launch.text.replace(before, before.replace("8", "0", 1))
        Launch(cloud.hosts, text).up("--no-restart")
        wait_for("an instance at the full price", lambda: len(cloud.alive) == 2, seconds=60)
        assert not any(instance.spot for instance in cloud.alive)
