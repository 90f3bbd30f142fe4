"""clusters/kuberay.yaml: what can be known of it without Kubernetes.

Ray's own autoscaler reads the resource (and validates what it made of it), and the fields have the
names and types of KubeRay's resource definition, as its API reference lists them. The pods' own
fields are Kubernetes' and checked here only where something depends on them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray import __version__ as ray_version
from ray.autoscaler._private.kuberay import autoscaling_config
from sqlalchemy import make_url

from orchestrator.tracking import server

FILE = Path(__file__).parents[2] / "clusters" / "kuberay.yaml"


def _only(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_PARAMETERS = {"type": "object", "additionalProperties": _TEXT}  # `num-cpus: 0` would be refused
_POD = _only(["spec"], metadata={"type": "object"}, spec={"type": "object"})
_WORKERS = _only(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    rayStartParams=_PARAMETERS,
    template=_POD,
)
_SPEC = _only(
    ["headGroupSpec"],
    rayVersion=_TEXT,
    authOptions=_only(["mode"], mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=_only(
        [], version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=_COUNT, resources={"type": "object"}
    ),
    headGroupSpec=_only(
        ["template"],
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=_PARAMETERS,
        template=_POD,
    ),
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
SHAPE = _only(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=_only(["name"], name=_TEXT),
    spec=_SPEC,
)


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    """The file's resources by their kind; volumes by their name too."""
    found = list(yaml.safe_load_all(FILE.read_text()))
    volumes = {d["metadata"]["name"]: d for d in found if d["kind"] == "PersistentVolumeClaim"}
    return {"volumes": volumes, **{document["kind"]: document for document in found}}


def _pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_cluster_has_the_shape_of_its_definition(documents: dict[str, Any]) -> None:
    jsonschema.validate(documents["RayCluster"], SHAPE)
    broken = copy.deepcopy(documents["RayCluster"])
    broken["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError, match="0 is not of type 'string'"):
        jsonschema.validate(broken, SHAPE)


def test_rays_autoscaler_understands_it(documents: dict[str, Any]) -> None:
    cluster = copy.deepcopy(documents["RayCluster"])
    cluster["metadata"]["namespace"] = "default"  # Kubernetes fills it in
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    head, gpu = (config["available_node_types"][name] for name in ("headgroup", "gpu"))
    assert head["resources"]["CPU"] == 0, "no trial runs beside the driver"
    assert gpu["resources"]["GPU"] == 1
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 8)
    assert config["idle_timeout_minutes"] == 10


def test_it_runs_this_ray(documents: dict[str, Any]) -> None:
    text = FILE.read_text()
    wanted = documents["RayCluster"]["spec"]["rayVersion"]
    assert text.count(f"rayproject/ray:{wanted}-") == 1
    assert _numbers(wanted) <= _numbers(ray_version)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


def test_it_is_closed(documents: dict[str, Any]) -> None:
    spec = documents["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    policy = documents["NetworkPolicy"]["spec"]
    name = documents["RayCluster"]["metadata"]["name"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/cluster": name}}
    assert policy["policyTypes"] == ["Ingress"]
    for pod in _pods(spec):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "ports" not in container


def test_all_pods_share_a_folder_and_a_bounded_memory(documents: dict[str, Any]) -> None:
    spec = documents["RayCluster"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert int(group["rayStartParams"]["object-store-memory"]) <= 1e9
    for pod in _pods(spec):
        claims = {v["name"]: v.get("persistentVolumeClaim") for v in pod["volumes"]}
        assert claims["shared"] == {"claimName": "orchestrate"}
        ray = pod["containers"][0]
        assert ray["name"].startswith("ray-"), "KubeRay takes the first container for Ray's"
        assert {"name": "shared", "mountPath": "/mnt/shared"} in ray["volumeMounts"]
        assert {"name": "ORCHESTRATE_DATA", "value": "/mnt/shared/data"} in ray["env"]
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(claims)
    assert documents["volumes"]["orchestrate"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_mlflow_has_a_database_without_port_or_password(documents: dict[str, Any]) -> None:
    head, *workers = _pods(documents["RayCluster"]["spec"])
    ray, mlflow, postgres = head["containers"]
    assert [len(pod["containers"]) for pod in workers] == [1]
    address = f"http://{server.HOST}:{server.PORT}"
    assert {"name": "MLFLOW_TRACKING_URI", "value": address} in ray["env"]
    assert mlflow["image"] == ray["image"]
    assert mlflow["command"][1:5] == ["-P", "-m", server.__name__, "--foreground"]
    assert mlflow["command"][5:] == ["--artifacts", "/mnt/shared/mlflow"]
    (where,) = mlflow["env"]
    assert where["name"] == server.DATABASE_VARIABLE
    url = make_url(where["value"])
    settings = {one["name"]: one["value"] for one in postgres["env"]}
    assert url.username == url.database == settings["POSTGRES_USER"]
    assert (url.password, url.host) == (None, None)
    socket = {"name": "socket", "mountPath": url.query["host"]}
    assert socket in mlflow["volumeMounts"]
    assert socket in postgres["volumeMounts"]
    assert socket not in ray["volumeMounts"], "trials have no business there"
    assert {"name": "socket", "emptyDir": {}} in head["volumes"]
    assert postgres["args"] == ["-c", "listen_addresses="]
    assert not any("PASSWORD" in name for name in settings)
    volume = documents["volumes"]["orchestrate-mlflow"]["spec"]
    assert volume["accessModes"] == ["ReadWriteOnce"], "a database on NFS gets corrupted"
