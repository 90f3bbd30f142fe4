"""The cluster: connecting to it, its nodes, and calling a function on each of them."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray._private import services
from ray._private import worker as ray_worker
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, TaskUnschedulableError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.backends.ray.watchdog import Watchdog
from orchestrator.backends.ray_settings import own_folder
from orchestrator.data.prepared.store import Present, presence
from orchestrator.errors import BackendError, InvalidInput
from orchestrator.provenance import import_path
from orchestrator.spec import Suite, Task
from orchestrator.storage.addresses import location
from orchestrator.storage.files import reason, storage_error
from orchestrator.storage.sharing import (
    Marker,
    MarkerReply,
    SharedCheck,
    check_marker,
    describe_problems,
    is_uri,
    name_list,
    short_error,
)

NAMESPACE = "orchestrate"
CPU_POOLS = 4
"""Pools on a node without GPUs, at most; its cores are divided among them."""
CHECK_SECONDS = 20.0
"""How long a sweep waits at its start for the nodes' answers."""
_CLOCK_READINGS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """What to run on: an address (None starts a local cluster), the device, trials per device."""

    address: str | None = None
    device: str = "auto"
    width: int | None = None


@dataclass(frozen=True)
class Node:
    """A living node: Ray's id for it, its host's name, GPUs and cores as Ray counts them."""

    id: str
    name: str
    gpus: float = 0.0
    cores: float = 0.0

    def trains(self, kind: str) -> bool:
        """Whether a sweep on devices of this kind (GPU, CPU) may give it trials."""
        return (self.gpus if kind == "GPU" else self.cores) > 0


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What a node answered; `trouble` says why there is no `value`.

    `sent` and `received` are times of the asking machine's clock, in seconds.
    """

    node: Node
    value: T | None = None
    trouble: str = ""
    sent: float = 0.0
    received: float = 0.0


class _DriverImports(JobConfig):
    """Workers import what this process imports. Ray would have them look first into the current
    folder and the script's, which may hold anything: a sweep's own folder holds an `adapters/`.
    """

    def __init__(self) -> None:
        # Each is inserted at the front of a worker's own path.
        super().__init__(_py_driver_sys_path=import_path()[::-1])

    def _runtime_env_has_working_dir(self) -> bool:
        """What Ray asks before it adds these folders."""
        return True


def connect(cluster: Cluster) -> None:
    """Join the cluster at its address, or start one here; `BackendError` says what to do."""
    options: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if not cluster.address or "://" not in cluster.address:  # Ray's client takes no such setting
        options["job_config"] = _DriverImports()
    if cluster.address:
        check_reachable(cluster.address)
    else:
        options |= {"include_dashboard": False, "object_store_memory": 100 * 2**20}
        if folder := own_folder():
            options["_temp_dir"] = folder
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=cluster.address or "local", **options)
    except Exception as error:  # Ray raises plain ones too, such as when it starts too slowly
        raise _unusable(cluster.address, reason(error)) from error
    except SystemExit as ended:  # what Ray makes of SIGTERM
        raise KeyboardInterrupt from ended
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it by one that just exits
    if not cluster.address:
        # Ray would print its log after a process of it has died; `Watchdog` says that in a line.
        worker = ray_worker.global_worker
        subscriber = getattr(worker, "gcs_error_subscriber", None)
        if subscriber is not None:
            worker.threads_stopped.set()  # its thread would ask a closed one without a pause
            subscriber.close()


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Connect, or start a local cluster; disconnect or end it afterwards.

    Raises `BackendError` if that fails, or if the cluster dies meanwhile (see `Watchdog`).
    """
    refused = partial(_unusable, cluster.address)
    with Watchdog(local=cluster.address is None, refused=refused) as watchdog:
        try:
            connect(cluster)
            watchdog.connected()
            yield
        except Exception as error:
            if cause := watchdog.cause(error):
                raise cause from error
            raise
        finally:
            watchdog.leaving()
            ray.shutdown()


def check_reachable(address: str) -> None:
    """`BackendError` at once if nobody listens there; Ray itself tries for minutes.

    `auto` is what $RAY_ADDRESS names, or the cluster that was started on this machine.
    """
    named, source = address, ""
    if address == "auto":
        try:
            named = services.get_ray_address_from_environment(address, None)
        except ConnectionError:
            return  # there is none; Ray says so at once
        given = os.environ.get("RAY_ADDRESS")
        source = "$RAY_ADDRESS is " if given else "the last one that was started here was at "
        source = f"{source}{named}: "
    host, colon, port = named.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # Ray says what it makes of it
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unusable(address, f"{source}{error}") from error


def device_kind(device: str) -> str:
    """The resource to request: GPU for `cuda`, CPU for `cpu`, what the cluster has for `auto`."""
    if device == "auto":
        return "GPU" if ray.cluster_resources().get("GPU", 0) > 0 else "CPU"
    return "GPU" if device.startswith("cuda") else "CPU"


def nodes() -> list[Node]:
    """The living nodes, by name; hosts of one name are told apart by their addresses."""
    described = [node for node in ray.nodes() if node["Alive"]]
    hosts = [str(node["NodeManagerHostname"]) for node in described]
    found = [
        Node(
            id=node["NodeID"],
            name=host if hosts.count(host) == 1 else f"{host} ({node['NodeManagerAddress']})",
            gpus=float(node["Resources"].get("GPU", 0)),
            cores=float(node["Resources"].get("CPU", 0)),
        )
        for node, host in zip(described, hosts, strict=True)
    ]
    return sorted(found, key=lambda node: node.name)


def devices_of(node: Node, wanted: str, kind: str) -> list[str]:
    """The devices of a node that are certain to be used, as torch names them."""
    if kind == "GPU":
        found = [f"cuda:{index}" for index in range(int(node.gpus))]
        return found if wanted in ("auto", "cuda") else []
    return ["cpu"] if node.cores > 0 else []


def cpu_pools(cores: float) -> int:
    """Pools of a node without GPUs."""
    return max(min(int(cores), CPU_POOLS), 1)


def ask(call: Callable[..., T], *given: Any, of: Iterable[Node], seconds: float) -> list[Answer[T]]:
    """Call `call(*given)` on each node, all at once; `seconds` is how long to wait for answers.

    It reserves neither cores nor GPUs, so a busy cluster answers too. The function must be one that
    every node can import: a node runs its own copy of it.
    """
    remote: Any = ray.remote(call)
    asked: dict[Any, tuple[Node, float]] = {}
    for node in of:
        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": here}
        asked[remote.options(**options).remote(*given)] = (node, time.time())
    answers = _collect(asked, time.monotonic() + seconds, seconds)
    return sorted(answers, key=lambda answer: answer.node.name)


def clocks(of: Sequence[Node], seconds: float) -> dict[str, float]:
    """By how many seconds each node's clock is ahead of this one, by name.

    Half of the round trip is subtracted; the quickest of a few readings counts.
    """
    best: dict[str, tuple[float, float]] = {}
    for _ in range(_CLOCK_READINGS):
        for answer in ask(_now, of=of, seconds=seconds):
            if answer.value is not None:
                trip = answer.received - answer.sent
                reading = trip, answer.value - (answer.sent + answer.received) / 2
                best[answer.node.name] = min(reading, best.get(answer.node.name, reading))
    return {name: ahead for name, (_, ahead) in best.items()}


def check_storage(
    out: str | Path, suite: Suite, data_root: Path, device: str, seconds: float = CHECK_SECONDS
) -> None:
    """`InvalidInput` if a node that may get trials does not see the sweep's folder or its data.

    `out` is a folder, or an address in an object store, which nodes download the data from. Nodes
    that do not answer in time, or that join later, are checked by their pools. `StorageError` if
    this machine cannot write to `out`.
    """
    given = (suite.store, suite.tasks, data_root)
    kind = device_kind(device)
    training = [node for node in nodes() if node.trains(kind)]
    try:
        with SharedCheck(out) as shared:
            answers = ask(_check_node, shared.marker, *given, of=training, seconds=seconds)
            seen = {answer.node.name: answer.value for answer in answers if answer.value}
            problems = {name: shared.confirm(reply) for name, (reply, _) in seen.items()}
    except OSError as error:
        raise storage_error(f"write to '{location(out)}'", OSError(short_error(error))) from error
    if unseen := describe_problems(problems):
        raise InvalidInput(
            f"the output folder '{location(out)}' is not shared with every node that would train "
            f"for this command ({unseen}). Give --out a folder that all of them see at the same "
            "path (an NFS share), or an object store (--out s3://BUCKET/PATH), or use a cluster of "
            "one node (leave --address out). `orchestrate doctor` with the same --address and "
            "--out checks it."
        )
    present = presence(*given)
    lacking = [name for name, (_, there) in seen.items() if _has_none(present, there)]
    if lacking and not is_uri(out):
        raise InvalidInput(
            f"the prepared data in '{data_root}' is not on {name_list(lacking)}. Give --data-root "
            "(or $ORCHESTRATE_DATA) a folder that all nodes see at the same path, or copy this one "
            "there."
        )


def _now() -> float:
    return time.time()


def _check_node(
    marker: Marker, store: str, tasks: Sequence[Task], root: Path
) -> tuple[MarkerReply, tuple[Present, ...]]:
    """What one node sees of the sweep's folder and of the data."""
    return check_marker(marker), presence(store, tasks, root)


def _has_none(here: Sequence[Present], there: Sequence[Present]) -> bool:
    """Whether nothing of what is prepared here is there: one task of many may not be needed."""
    mine = {(task.task, task.fingerprint) for task in here if task.fingerprint}
    return bool(mine) and not mine & {(task.task, task.fingerprint) for task in there}


def _collect(
    asked: Mapping[Any, tuple[Node, float]], until: float, seconds: float
) -> list[Answer[Any]]:
    """An answer for each question; those that come too late are cancelled."""
    waiting, answers = list(asked), []
    while waiting:
        left = max(until - time.monotonic(), 0.0)
        ready, waiting = ray.wait(waiting, timeout=left)
        if not ready:
            break
        received = time.time()
        answers += [_answer(question, *asked[question], received) for question in ready]
    for question in waiting:
        ray.cancel(question, force=True)
        node, sent = asked[question]
        answers.append(Answer(node, None, f"no answer within {seconds:g} s", sent, time.time()))
    return answers


def _answer(question: Any, node: Node, sent: float, received: float) -> Answer[Any]:
    try:
        return Answer(node, ray.get(question, timeout=5), "", sent, received)
    except (RayError, GetTimeoutError, ImportError) as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        return Answer(node, None, _line(cause), sent, received)


def _line(error: BaseException) -> str:
    if isinstance(error, TaskUnschedulableError):
        return "it has left the cluster"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}".rstrip(": .")


def _unusable(address: str | None, why: str) -> BackendError:
    if address is None:
        return BackendError(
            f"--backend ray cannot start a cluster on this machine: {why}. Run the same command "
            "again when the machine has cores, memory and space in /tmp free, or use --backend "
            "local, which starts nothing."
        )
    return BackendError(
        f"Ray cluster '{address}' cannot be used: {why.rstrip('.')}. Start one (`ray up "
        "cluster.yaml`, `ray start --head`), leave --address out for a local one, or use --backend "
        "local. One that asks for a token (InvalidAuthToken) wants its own in ~/.ray/auth_token "
        "here, and RAY_AUTH_MODE=token."
    )
