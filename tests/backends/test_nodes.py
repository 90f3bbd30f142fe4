"""A function on every node, and the refusal of a folder that nodes do not share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import tasks
from orchestrator.backends.ray import nodes
from orchestrator.backends.ray.nodes import Answer, Node, check_places
from orchestrator.data.prepared.presence import Present, presence
from orchestrator.errors import InvalidInput, StorageError
from orchestrator.storage.sharing import Marker, SharedCheck, Sight, check_marker

SUITE = tasks.suite("mini")
NODES = [Node("a", "head", cores=4), Node("b", "worker1", gpus=1, cores=4)]


def _described(name: str, **resources: float) -> dict[str, Any]:
    address = f"10.0.0.{len(resources)}"
    return {
        "NodeID": name,
        "NodeManagerHostname": name.rstrip("12"),
        "NodeManagerAddress": address,
        "Resources": resources,
    }


def test_nodes_are_named_by_host_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    described = [_described("twin2", CPU=1), _described("twin1", CPU=1, GPU=2), _described("a")]
    monkeypatch.setattr(nodes, "alive", lambda: described)
    found = nodes.nodes()
    assert [node.name for node in found] == ["a", "twin (10.0.0.1)", "twin (10.0.0.2)"]
    assert [(node.gpus, node.cores) for node in found] == [(0, 0), (0, 1), (2, 1)]


@pytest.mark.parametrize(("kind", "names"), [("GPU", ["worker1"]), ("CPU", ["head", "worker1"])])
def test_only_nodes_with_the_device_may_get_trials(
    kind: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "nodes", lambda: NODES)
    monkeypatch.setattr(nodes, "device_kind", lambda _: kind)
    assert [node.name for node in nodes.training_nodes("auto")] == names


def _on(
    monkeypatch: pytest.MonkeyPatch, places: dict[str, Path | None], data: dict[str, Path]
) -> None:
    """Nodes whose folder at the path of --out is this one; None: they do not answer."""
    monkeypatch.setattr(nodes, "training_nodes", lambda _: NODES)

    def ask(call: Any, sign: Marker, *_: Any, of: list[Node], seconds: float) -> list[Answer[Any]]:
        return [_answer(node, sign) for node in of]

    def _answer(node: Node, sign: Marker) -> Answer[Any]:
        place = places[node.name]
        if place is None:
            return Answer(node, None, "no answer within 20 s")
        seen = check_marker(Marker(str(place), sign.name, sign.content))
        return Answer(node, (seen, presence(SUITE.store, SUITE.tasks, data[node.name])))

    monkeypatch.setattr(nodes, "ask", ask)


def test_a_folder_that_all_see_is_fine(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = dict.fromkeys(("head", "worker1"), mini_data)
    _on(monkeypatch, {"head": tmp_path, "worker1": tmp_path}, everywhere)
    check_places(tmp_path, SUITE, mini_data, "auto")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_one_does_not_see_is_refused_with_the_ways_out(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, own = tmp_path / "out", tmp_path / "own"
    everywhere = dict.fromkeys(("head", "worker1"), mini_data)
    _on(monkeypatch, {"head": out, "worker1": own}, everywhere)
    with pytest.raises(InvalidInput) as refused:
        check_places(out, SUITE, mini_data, "auto")
    said = str(refused.value)
    for told in (f"'{out}'", "worker1: there is no such folder", "NFS", "s3://", "one node"):
        assert told in said
    assert "head" not in said
    assert refused.value.exit_code == 2
    assert not own.exists()


def test_a_node_without_the_data_is_refused(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"head": mini_data, "worker1": tmp_path / "none"}
    _on(monkeypatch, {"head": tmp_path, "worker1": tmp_path}, data)
    with pytest.raises(InvalidInput, match=r"is not on worker1\. Give --data-root"):
        check_places(tmp_path, SUITE, mini_data, "auto")


def test_an_object_store_brings_the_data_along(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"head": mini_data, "worker1": tmp_path / "none"}
    _on(monkeypatch, {"head": tmp_path, "worker1": tmp_path}, data)
    monkeypatch.setattr(nodes, "is_uri", lambda _: True)
    check_places(tmp_path, SUITE, mini_data, "auto")


def test_a_folder_that_refuses_is_told_as_storage(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(nodes, "training_nodes", lambda _: NODES)
    with pytest.raises(StorageError, match=r"cannot write to .*run the same command again"):
        check_places(tmp_path / "file" / "out", SUITE, mini_data, "auto")


def test_data_that_is_there_in_part_is_left_to_the_pools() -> None:
    here = [Present("a", "1"), Present("b", "2"), Present("c", problem="missing")]
    assert not nodes._has_none(here, [Present("a", "1"), Present("b", problem="missing")])
    assert nodes._has_none(here, [Present("a", "9"), Present("b", problem="missing")])
    assert not nodes._has_none([Present("a", problem="missing")], [])


def test_a_node_that_does_not_answer_is_left_to_its_pool(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on(monkeypatch, {"head": tmp_path, "worker1": None}, {"head": mini_data})
    check_places(tmp_path, SUITE, mini_data, "auto")


def test_an_answer_that_does_not_come_back_is_a_blind_node(tmp_path: Path) -> None:
    with SharedCheck(tmp_path) as shared:
        assert shared.confirm(Sight(file="never", answer="x"))


def test_clocks_take_half_of_the_quickest_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    trips = iter([(4.0, 12.0), (0.5, 10.25), (1.0, 11.5)])

    def ask(*_: Any, of: list[Node], seconds: float) -> list[Answer[float]]:
        trip, value = next(trips)
        return [Answer(NODES[0], value, "", 0.0, trip), Answer(NODES[1], None, "late")]

    monkeypatch.setattr(nodes, "ask", ask)
    assert nodes.clocks(NODES, 1.0) == {"head": pytest.approx(10.0)}


def test_an_error_of_a_node_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(question: Any, timeout: float) -> Any:
        raise ImportError("No module named 'orchestrator.cluster.doctor'")

    monkeypatch.setattr(nodes, "ray", SimpleNamespace(get=get))
    answer = nodes._answer(object(), NODES[0], 1.0, 2.0)
    assert answer.value is None
    assert answer.trouble == "ImportError: No module named 'orchestrator.cluster.doctor'"


_ON_RAY = """
import json, sys, time
from pathlib import Path
from orchestrator import tasks
from orchestrator.backends import ray_settings
ray_settings.apply(None)
import ray
from orchestrator.backends.ray.cluster import Cluster, connect
from orchestrator.backends.ray import nodes
from orchestrator.storage.sharing import filesystem

connect(Cluster())
cores = int(ray.cluster_resources()["CPU"])
busy = ray.remote(num_cpus=cores)(time_out := lambda: time.sleep(600)).remote()
ray.wait([busy], timeout=3)
found = nodes.nodes()
said = {"cores": [node.cores for node in found]}
said["kind"] = nodes.ask(filesystem, Path("/proc/self"), of=found, seconds=60)[0].value
began = time.monotonic()
(late,) = nodes.ask(time_out, of=found, seconds=1.5)
said["late"], said["waited"] = late.trouble, time.monotonic() - began
(failed,) = nodes.ask(lambda: 1 / 0, of=found, seconds=60)
said["failed"] = failed.trouble
(gone,) = nodes.ask(filesystem, Path("/"), of=[nodes.Node("ab" * 28, "gone")], seconds=30)
said["gone"] = gone.trouble
said["ahead"] = list(nodes.clocks(found, 30).values())
began = time.monotonic()
nodes.check_places(sys.argv[1], tasks.suite("mini"), Path(sys.argv[2]), "auto")
said["checked"] = time.monotonic() - began
ray.shutdown()
print(json.dumps(said))
"""


@pytest.mark.long
def test_a_node_whose_cores_are_all_taken_answers(tmp_path: Path, mini_data: Path) -> None:
    command = [sys.executable, "-c", _ON_RAY, str(tmp_path / "out"), str(mini_data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kind"] == "proc"
    assert said["late"] == "no answer within 1.5 s"
    assert said["waited"] < 10
    assert said["failed"] == "ZeroDivisionError: division by zero"
    assert said["gone"] == "it has left the cluster"
    assert [abs(ahead) < 0.5 for ahead in said["ahead"]] == [True]
    assert said["checked"] < 10
    assert list(tmp_path.iterdir()) == []
    print(said)
