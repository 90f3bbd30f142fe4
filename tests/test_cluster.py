"""The cluster files: valid for Ray's launcher, closed to strangers, and carrying the project."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
FILES = ["cluster.yaml", "clusters/onprem.yaml"]
START = ("head_start_ray_commands", "worker_start_ray_commands")


def _load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return config


def test_no_cluster_file_goes_untested() -> None:
    found = ["cluster.yaml", *(f"clusters/{path.name}" for path in (ROOT / "clusters").iterdir())]
    assert found == FILES


@pytest.mark.parametrize("name", FILES)
def test_valid_for_rays_own_schema_without_credentials(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    prepared = prepare_config(_load(name))
    validate_config(prepared)
    json.dumps(prepared)  # the head gets it as JSON


def test_the_schema_refuses_a_misspelt_field() -> None:
    broken = copy.deepcopy(_load("cluster.yaml"))
    broken["setup_comands"] = broken.pop("setup_commands")
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", FILES)
def test_every_node_installs_the_working_tree(name: str) -> None:
    config = _load(name)
    target = "~/orchestrate"
    assert any(f"pip install -q {target}" in command for command in config["setup_commands"])
    mounted = {
        Path(local).as_posix(): remote
        for remote, local in config["file_mounts"].items()
        if remote.startswith(f"{target}/")
    }
    needed = {"pyproject.toml", "README.md", "LICENSE", "adapters", "orchestrator", "search_spaces"}
    assert mounted == {path: f"{target}/{path}" for path in needed}
    assert all((ROOT / path).exists() for path in needed)


@pytest.mark.parametrize("name", FILES)
def test_no_node_starts_without_the_token(name: str) -> None:
    config = _load(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
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
def test_the_object_store_is_bounded(name: str) -> None:
    for key in START:
        (start,) = (command for command in _load(name)[key] if "ray start" in command)
        assert "--object-store-memory=" in start


@pytest.mark.parametrize("name", FILES)
def test_data_is_prepared_where_every_node_sees_it(name: str) -> None:
    shared = {"cluster.yaml": "~/shared", "clusters/onprem.yaml": "/mnt/shared"}[name]
    setup = _load(name)["setup_commands"]
    assert any(f"export ORCHESTRATE_DATA={shared}/data" in command for command in setup)
    assert f"--out {shared}/mini" in (ROOT / name).read_text()


def test_aws_workers_mount_the_shared_folder_before_they_join() -> None:
    commands = _load("cluster.yaml")["worker_start_ray_commands"]
    (mount,) = (i for i, command in enumerate(commands) if "mount -t nfs4" in command)
    (start,) = (i for i, command in enumerate(commands) if "ray start" in command)
    assert mount < start
    exports = [c for c in _load("cluster.yaml")["head_setup_commands"] if "/etc/exports" in c]
    assert len(exports) == 1
    assert "*(" not in exports[0], "exported to private addresses only"


def test_aws_nodes_name_their_security_group() -> None:
    """Without one, Ray makes a group that lets the whole world in on port 22."""
    for name, node in _load("cluster.yaml")["available_node_types"].items():
        assert node["node_config"]["SecurityGroupIds"], name


def test_aws_workers_are_spot_machines_between_none_and_the_bound() -> None:
    config = _load("cluster.yaml")
    worker = config["available_node_types"]["gpu"]
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == config["max_workers"] > 0
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_on_premises_uses_the_autoscaler_that_starts_every_worker() -> None:
    (head,) = (
        command
        for command in _load("clusters/onprem.yaml")["head_start_ray_commands"]
        if "ray start" in command
    )
    assert "RAY_enable_autoscaler_v2=0" in head
