"""The cluster itself: reached or started, and what its nodes have."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.errors import BackendError

NAMESPACE = "orchestrate"
CPU_POOLS = 4
"""Pools on a node without GPUs, at most; its cores are shared out among them."""


@dataclass(frozen=True)
class Cluster:
    """What to run on: an address (None starts a local cluster), the device, trials per device."""

    address: str | None = None
    device: str = "auto"
    width: int | None = None


def connect(cluster: Cluster) -> None:
    """Joins the cluster at its address, or starts one here; `BackendError` says what to do."""
    if cluster.address:
        check_reachable(cluster.address)
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "namespace": NAMESPACE,
    }
    try:
        if cluster.address:
            ray.init(address=cluster.address, **quiet)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        where = f"Ray cluster '{cluster.address}'" if cluster.address else "a local Ray cluster"
        why, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise _unusable(where, why) from error


def check_reachable(address: str) -> None:
    """Knocks at HOST:PORT first: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto` and the like
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unusable(f"Ray cluster '{address}'", str(error)) from error


def _unusable(where: str, why: str) -> BackendError:
    return BackendError(
        f"{where} cannot be used: {why.rstrip('.')}. Start one (`ray up cluster.yaml`, "
        "`ray start --head`), leave --address out for a local one, or use --backend local. One "
        "that asks for a token (InvalidAuthToken) wants its own in ~/.ray/auth_token here, and "
        "RAY_AUTH_MODE=token."
    )


def device_kind(device: str) -> str:
    """The resource to ask for: GPU for `cuda`, CPU for `cpu`, whatever is there for `auto`."""
    if device == "auto":
        return "GPU" if ray.cluster_resources().get("GPU", 0) > 0 else "CPU"
    return "GPU" if device.startswith("cuda") else "CPU"


def devices_of(wanted: str, kind: str, resources: dict[str, float]) -> list[str]:
    """The devices of a node that are certain to be used, as torch names them."""
    if kind == "GPU":
        found = [f"cuda:{index}" for index in range(int(resources.get("GPU", 0)))]
        return found if wanted in ("auto", "cuda") else []
    return ["cpu"] if resources.get("CPU", 0) > 0 else []


def alive() -> list[dict[str, Any]]:
    """The nodes that live, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def cores_of(resources: dict[str, float]) -> int:
    """Cores that Ray may use on a node: `--num-cpus` or a container may leave it fewer than all."""
    return int(resources.get("CPU", 1))


def cores_on(node: str) -> int:
    """The same by the node's id; 1 if it is gone."""
    return next((cores_of(one["Resources"]) for one in alive() if one["NodeID"] == node), 1)


def cores_of_nodes() -> list[float]:
    """Of every node that has any."""
    found = [float(node["Resources"].get("CPU", 0)) for node in alive()]
    return [cores for cores in found if cores > 0]


def cpu_pools(cores: int) -> int:
    """Pools of a node without GPUs."""
    return max(min(cores, CPU_POOLS), 1)
