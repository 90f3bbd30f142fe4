"""The cluster files: valid for Ray's launcher, closed to strangers, and carrying the project."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from sqlalchemy import make_url

from orchestrator.tracking import server

ROOT = Path(__file__).parent.parent
FILES = ["cluster.yaml", "clusters/gcp.yaml", "clusters/onprem.yaml"]
CLOUDS = FILES[:2]
KUBERNETES = "clusters/kuberay.yaml"  # tests/hosts/test_kuberay.py
SCRIPT = "clusters/postgres.sh"  # run by the launches
START = ("head_start_ray_commands", "worker_start_ray_commands")


def _load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return config


def test_no_cluster_file_goes_untested() -> None:
    found = {"cluster.yaml", *(f"clusters/{path.name}" for path in (ROOT / "clusters").iterdir())}
    assert found == {*FILES, KUBERNETES, SCRIPT}


@pytest.mark.parametrize("name", FILES)
def test_valid_for_rays_own_schema_without_credentials(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    prepared = prepare_config(_load(name))
    validate_config(prepared)
    json.dumps(prepared)  # the head gets it as JSON


@pytest.mark.parametrize("name", FILES)
def test_every_node_installs_the_working_tree(name: str) -> None:
    config = _load(name)
    target = "~/orchestrate"
    assert any(f"pip install -q -e {target}" in command for command in config["setup_commands"])
    mounted = {
        Path(local).as_posix(): remote
        for remote, local in config["file_mounts"].items()
        if remote.startswith(f"{target}/")
    }
    needed = {"pyproject.toml", "README.md", "LICENSE", "adapters", "orchestrator", "search_spaces"}
    needed.add(SCRIPT)
    assert mounted == {path: f"{target}/{path}" for path in needed}
    assert all((ROOT / path).exists() for path in needed)


@pytest.mark.parametrize("name", FILES)
def test_no_node_starts_without_the_token(name: str) -> None:
    config = _load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any(command.startswith("chmod go= ~/.ray") for command in config["setup_commands"])
    for key in START:
        starts = [command for command in config[key] if "ray start" in command]
        assert len(starts) == 1
        before = starts[0].split("ray start")[0]
        assert "RAY_AUTH_MODE=token" in before, key
    assert any("export RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert "RAY_AUTH_TOKEN" not in (ROOT / name).read_text(), "the token itself has no place here"


@pytest.mark.parametrize("name", FILES)
def test_the_dashboard_listens_on_loopback_only(name: str) -> None:
    (head,) = (c for c in _load(name)["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in head
    assert not re.search(r"(?<!\d)0\.0\.0\.0", (ROOT / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_the_head_serves_mlflow_on_loopback_without_any_password(name: str) -> None:
    config = _load(name)
    script, serve, *_ = config["head_start_ray_commands"]
    assert script == f"sh ~/orchestrate/{SCRIPT}"
    shared = "~/shared" if name in CLOUDS else "/mnt/shared"
    assert (
        serve == f"~/venv/bin/python -P -m orchestrator.tracking.server --artifacts {shared}/mlflow"
    )
    assert server.HOST == "127.0.0.1"
    listen = server.command("/artifacts")
    assert listen[listen.index("--host") + 1] == server.HOST
    url = make_url(server.DATABASE)
    assert (url.username, url.password, url.host, url.port) == (None, None, None, None)
    assert url.query == {"host": "/var/run/postgresql"}
    for text in ((ROOT / name).read_text(), (ROOT / SCRIPT).read_text()):
        assert not re.search(r"(?i)PGPASS|password *[=:]|--host|://[^/ ]*:[^/ ]*@", text)

    address = f"MLFLOW_TRACKING_URI=http://{server.HOST}:{server.PORT}"
    told = [command for command in config["head_setup_commands"] if ".bashrc" in command]
    assert f"export {address}" in told[-1]
    (start,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert address in start.split("ray start")[0], "drivers that Ray Jobs starts"
    assert "MLFLOW_TRACKING_URI" not in str(config["setup_commands"]), "loopback of the head alone"


@pytest.mark.parametrize("name", FILES)
def test_the_head_installs_postgresql_and_its_driver(name: str) -> None:
    setup = _load(name)["head_setup_commands"]
    assert any(re.search(r"dpkg -s postgresql .*install -y -q postgresql", line) for line in setup)
    driver = "psycopg[binary]"
    assert any(f'pip install -q "{driver}"' in line for line in setup)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = extras["optional-dependencies"]["postgres"]
    assert wanted.startswith(driver)
    assert wanted in extras["optional-dependencies"]["dev"]


@pytest.mark.parametrize("name", FILES)
def test_the_object_store_is_bounded(name: str) -> None:
    for key in START:
        (start,) = (command for command in _load(name)[key] if "ray start" in command)
        assert "--object-store-memory=" in start


@pytest.mark.parametrize("name", FILES)
def test_data_is_prepared_where_every_node_sees_it(name: str) -> None:
    shared = "~/shared" if name in CLOUDS else "/mnt/shared"
    setup = _load(name)["setup_commands"]
    assert any(f"export ORCHESTRATE_DATA={shared}/data" in command for command in setup)
    assert f"--out {shared}/mini" in (ROOT / name).read_text()


@pytest.mark.parametrize("name", CLOUDS)
def test_cloud_workers_mount_the_shared_folder_before_they_join(name: str) -> None:
    commands = _load(name)["worker_start_ray_commands"]
    (mount,) = (i for i, command in enumerate(commands) if "mount -t nfs4" in command)
    (start,) = (i for i, command in enumerate(commands) if "ray start" in command)
    assert mount < start
    exports = [c for c in _load(name)["head_setup_commands"] if "/etc/exports" in c]
    assert len(exports) == 1
    networks = [ipaddress.ip_network(found) for found in re.findall(r"[\d.]+/\d+", exports[0])]
    assert networks
    assert all(network.is_private for network in networks)
    assert exports[0].count("(rw") == len(networks), "exported to nobody else"


@pytest.mark.parametrize("name", CLOUDS)
def test_cloud_workers_are_spot_machines_first(name: str) -> None:
    config = _load(name)
    spot, full = (config["available_node_types"][kind] for kind in ("gpu", "gpu_on_demand"))
    for kind in (spot, full):
        assert kind["min_workers"] == 0
        assert kind["max_workers"] == config["max_workers"] > 0
    assert spot["priority"] > full.get("priority", 0)
    market = {"cluster.yaml": "InstanceMarketOptions", "clusters/gcp.yaml": "scheduling"}[name]
    said, unsaid = str(spot["node_config"].pop(market)), str(full["node_config"].pop(market))
    assert "spot" in said.lower()
    assert "spot" not in unsaid.lower()
    assert spot["node_config"] == full["node_config"], "the same machine at another price"


def test_aws_nodes_name_their_security_group_and_disk() -> None:
    """Without a group, Ray makes one that lets the whole world in on port 22."""
    for name, node in _load("cluster.yaml")["available_node_types"].items():
        config = node["node_config"]
        assert config["SecurityGroupIds"], name
        assert config["MetadataOptions"] == {"HttpTokens": "required"}, name
        (disk,) = config["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 100, name
        assert disk["Ebs"]["Encrypted"] is True, name


def test_google_nodes_are_in_a_network_of_their_own() -> None:
    """The default network lets the whole world in on port 22."""
    config = _load("clusters/gcp.yaml")
    for name, node in config["available_node_types"].items():
        (interface,) = node["node_config"]["networkInterfaces"]
        assert interface["subnetwork"].endswith("/subnetworks/orchestrate"), name
        (disk,) = node["node_config"]["disks"]
        assert disk["initializeParams"]["diskSizeGb"] >= 100, name
    project, zone = config["provider"]["project_id"], config["provider"]["availability_zone"]
    text = (ROOT / "clusters/gcp.yaml").read_text()
    assert set(re.findall(r"projects/(my-[^/]*)", text)) == {project}
    assert set(re.findall(r"zones/([^/]*)", text)) == {zone}


def test_on_premises_uses_the_autoscaler_that_starts_every_worker() -> None:
    (head,) = (
        command
        for command in _load("clusters/onprem.yaml")["head_start_ray_commands"]
        if "ray start" in command
    )
    assert "RAY_enable_autoscaler_v2=0" in head
