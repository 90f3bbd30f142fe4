"""Connecting, a function on every node, and the refusal of a folder that nodes do not share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import services

from orchestrator import tasks
from orchestrator.backends.ray import cluster
from orchestrator.backends.ray.cluster import (
    Answer,
    Cluster,
    Node,
    check_reachable,
    check_storage,
    connect,
    devices_of,
)
from orchestrator.data.prepared.store import Present, presence
from orchestrator.errors import BackendError, InvalidInput, StorageError
from orchestrator.storage.sharing import Marker, check_marker

SUITE = tasks.suite("mini")
NODES = [Node("a", "head", cores=4), Node("b", "worker1", gpus=1, cores=4)]


def test_nodes_are_named_by_host_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def described(host: str, alive: bool = True, **resources: float) -> dict[str, Any]:
        address = f"10.0.0.{len(resources)}"
        named = {"NodeID": host, "NodeManagerHostname": host, "NodeManagerAddress": address}
        return {**named, "Alive": alive, "Resources": resources}

    found = [described("b", CPU=1), described("b", CPU=1, GPU=2), described("a")]
    monkeypatch.setattr(ray, "nodes", lambda: [*found, described("dead", alive=False, CPU=64)])
    assert [(node.name, node.gpus, node.cores) for node in cluster.nodes()] == [
        ("a", 0, 0),
        ("b (10.0.0.1)", 0, 1),
        ("b (10.0.0.2)", 2, 1),
    ]


@pytest.mark.parametrize(
    ("wanted", "kind", "resources", "found"),
    [
        ("auto", "CPU", {"cores": 4}, ["cpu"]),
        ("cpu", "CPU", {"cores": 4, "gpus": 2}, ["cpu"]),
        ("cpu", "CPU", {}, []),
        ("cuda", "GPU", {"cores": 4, "gpus": 2}, ["cuda:0", "cuda:1"]),
        ("cuda", "GPU", {"cores": 4}, []),
        ("cuda:1", "GPU", {"gpus": 2}, []),
    ],
)
def test_devices_that_are_certain_to_be_used(
    wanted: str, kind: str, resources: dict[str, float], found: list[str]
) -> None:
    node = Node("a", "a", **resources)
    assert devices_of(node, wanted, kind) == found
    assert node.trains(kind) or not found


def test_an_address_where_nobody_listens_is_named_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(BackendError, match=rf"'{address}'.*--backend local"):
            check_reachable(address)
    with pytest.raises(BackendError, match="cannot be used"):
        check_reachable(f"{'a' * 70}.example:6379")
    assert time.monotonic() - began < 2
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"127.0.0.1:{server.getsockname()[1]}")
    check_reachable("auto")


def test_auto_names_the_dead_cluster_that_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(BackendError, match=rf"'auto'.*RAY_ADDRESS is {address}: .*refused"):
        check_reachable("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: address)
    with pytest.raises(BackendError, match=rf"'auto'.*started here was at {address}: .*refused"):
        check_reachable("auto")


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("auto", ConnectionError("no token\ndetails"), r"'auto' cannot be used: no token\. Start"),
        ("auto", ray.exceptions.RayError(), r"'auto' cannot be used: RayError\. Start one"),
        ("auto", TimeoutError("Timed out after 5 s"), r"cannot be used: Timed out after 5 s\. "),
        (None, Exception("The current node timed out during startup. This …"), r"--backend ray .* "
         r"timed out during startup.*Run the same command again.*--backend local"),
    ],
)  # fmt: skip
def test_an_error_of_ray_is_one_sentence_with_the_ways_out(
    address: str | None, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BackendError, match=message) as caught:
        connect(Cluster(address))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.1:6379", "ray://head:10001"])
def test_workers_import_from_the_folders_of_the_command(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order, and from no other: Ray adds the current folder, unless it has a working one."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(cluster, "check_reachable", lambda _: None)
    monkeypatch.setattr(sys, "path", ["plugins", "", *sys.path])
    monkeypatch.chdir(tmp_path)
    connect(Cluster(address))
    if address == "ray://head:10001":
        assert "job_config" not in given, "Ray's client takes none"
        return
    path: list[str] = []
    for folder in given["job_config"]._py_driver_sys_path:  # as a worker does
        path.insert(0, folder)
    assert path[:2] == [str(tmp_path / "plugins"), str(tmp_path)]
    assert path[2:] == list(dict.fromkeys(map(os.path.abspath, sys.path[2:])))
    assert given["job_config"]._runtime_env_has_working_dir()


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("folder", ["", "tmp", "/no/such", f"/tmp/{'t' * 62}", "/tmp/é" + "é" * 20])
def test_a_folder_that_sockets_cannot_be_in_is_replaced(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, folder)
    connect(Cluster())
    assert given["_temp_dir"] == "/tmp/ray"
    given.clear()
    connect(Cluster("auto"))
    assert "_temp_dir" not in given, "a cluster that runs has its own"
    given.clear()
    monkeypatch.setenv(name, "/tmp")
    connect(Cluster())
    assert "_temp_dir" not in given
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BackendError, match=rf"{name} '/tmp'.*RAY_TMPDIR.*--backend local"):
        connect(Cluster())


def _two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "device_kind", lambda _: "CPU")
    monkeypatch.setattr(cluster, "nodes", lambda: NODES)


def _on(
    monkeypatch: pytest.MonkeyPatch, places: dict[str, Path | None], data: dict[str, Path]
) -> None:
    """Nodes whose folder at the path of --out is this one; None: they do not answer."""
    _two_nodes(monkeypatch)

    def answer(node: Node, marker: Marker) -> Answer[Any]:
        place = places[node.name]
        if place is None:
            return Answer(node, None, "no answer within 20 s")
        seen = check_marker(replace(marker, place=str(place)))
        return Answer(node, (seen, presence(SUITE.store, SUITE.tasks, data[node.name])))

    def ask(_: Any, marker: Marker, *__: Any, of: list[Node], seconds: float) -> list[Answer[Any]]:
        return [answer(node, marker) for node in of]

    monkeypatch.setattr(cluster, "ask", ask)


@pytest.mark.parametrize("answers", [True, False])
def test_a_folder_that_every_node_sees_is_accepted(
    answers: bool, tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not answer is left to its pool."""
    everywhere = dict.fromkeys(("head", "worker1"), mini_data)
    _on(monkeypatch, {"head": tmp_path, "worker1": tmp_path if answers else None}, everywhere)
    check_storage(tmp_path, SUITE, mini_data, "auto")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_one_does_not_see_is_refused_with_the_ways_out(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, own = tmp_path / "out", tmp_path / "own"
    everywhere = dict.fromkeys(("head", "worker1"), mini_data)
    _on(monkeypatch, {"head": out, "worker1": own}, everywhere)
    with pytest.raises(InvalidInput) as refused:
        check_storage(out, SUITE, mini_data, "auto")
    text = str(refused.value)
    for part in (f"'{out}'", "worker1: there is no such folder", "NFS", "s3://", "one node"):
        assert part in text
    assert "head" not in text
    assert refused.value.exit_code == 2
    assert not own.exists()


def test_a_node_without_the_data_is_refused(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"head": mini_data, "worker1": tmp_path / "none"}
    _on(monkeypatch, {"head": tmp_path, "worker1": tmp_path}, data)
    with pytest.raises(InvalidInput, match=r"is not on worker1\. Give --data-root"):
        check_storage(tmp_path, SUITE, mini_data, "auto")
    monkeypatch.setattr(cluster, "is_uri", lambda _: True)  # an object store carries the data
    check_storage(tmp_path, SUITE, mini_data, "auto")


def test_a_folder_that_refuses_is_told_as_storage(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    _two_nodes(monkeypatch)
    with pytest.raises(StorageError, match=r"cannot write to .*run the same command again"):
        check_storage(tmp_path / "file" / "out", SUITE, mini_data, "auto")


def test_data_that_is_there_in_part_is_left_to_the_pools() -> None:
    here = [Present("a", "1"), Present("b", "2"), Present("c", problem="missing")]
    assert not cluster._has_none(here, [Present("a", "1"), Present("b", problem="missing")])
    assert cluster._has_none(here, [Present("a", "9"), Present("b", problem="missing")])
    assert not cluster._has_none([Present("a", problem="missing")], [])


def test_clocks_take_half_of_the_quickest_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    trips = iter([(4.0, 12.0), (0.5, 10.25), (1.0, 11.5)])

    def ask(*_: Any, of: list[Node], seconds: float) -> list[Answer[float]]:
        trip, value = next(trips)
        return [Answer(NODES[0], value, "", 0.0, trip), Answer(NODES[1], None, "late")]

    monkeypatch.setattr(cluster, "ask", ask)
    assert cluster.clocks(NODES, 1.0) == {"head": pytest.approx(10.0)}


def test_an_error_of_a_node_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(question: Any, timeout: float) -> Any:
        raise ImportError("No module named 'orchestrator.cluster.doctor'")

    monkeypatch.setattr(cluster, "ray", SimpleNamespace(get=get))
    answer = cluster._answer(object(), NODES[0], 1.0, 2.0)
    assert answer.value is None
    assert answer.trouble == "ImportError: No module named 'orchestrator.cluster.doctor'"


_ON_RAY = """
import json, sys, time
from pathlib import Path
from orchestrator import tasks
from orchestrator.backends import ray_settings
ray_settings.apply(None)
import ray
from orchestrator.backends.ray import cluster
from orchestrator.storage.sharing import filesystem

cluster.connect(cluster.Cluster())
cores = int(ray.cluster_resources()["CPU"])
busy = ray.remote(num_cpus=cores)(time_out := lambda: time.sleep(600)).remote()
before = time.process_time()
ray.wait([busy], timeout=3)
said = {"burnt": time.process_time() - before}
found = cluster.nodes()
said["cores"] = [node.cores for node in found]
said["kind"] = cluster.ask(filesystem, Path("/proc/self"), of=found, seconds=60)[0].value
began = time.monotonic()
(late,) = cluster.ask(time_out, of=found, seconds=1.5)
said["late"], said["waited"] = late.trouble, time.monotonic() - began
(failed,) = cluster.ask(lambda: 1 / 0, of=found, seconds=60)
said["failed"] = failed.trouble
(gone,) = cluster.ask(filesystem, Path("/"), of=[cluster.Node("ab" * 28, "gone")], seconds=30)
said["gone"] = gone.trouble
said["ahead"] = list(cluster.clocks(found, 30).values())
began = time.monotonic()
cluster.check_storage(sys.argv[1], tasks.suite("mini"), Path(sys.argv[2]), "auto")
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
    assert said["burnt"] < 1, "a thread of Ray's is busy while the command waits for 3 s"
    assert said["kind"] == "proc"
    assert said["late"] == "no answer within 1.5 s"
    assert said["waited"] < 10
    assert said["failed"] == "ZeroDivisionError: division by zero"
    assert said["gone"] == "it has left the cluster"
    assert [abs(ahead) < 0.5 for ahead in said["ahead"]] == [True]
    assert said["checked"] < 10
    assert list(tmp_path.iterdir()) == []
