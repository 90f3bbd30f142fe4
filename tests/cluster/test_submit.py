"""What is submitted, and what is refused before anything is: without a cluster."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import main as cli
from orchestrator.cluster.submit import GivenOption, Submission, cluster_path, prepare
from orchestrator.errors import InvalidInput
from orchestrator.planning.config import SweepConfig
from tests.commands import Here, refused

HOME = Path("/home/ada")


def _options(command: str) -> dict[str, Any]:
    commands: Any = typer.main.get_command(cli.app)
    return {p.name: p for p in commands.commands[command].params if p.param_type_name == "option"}


def _prepare(typed: dict[str, list[str]] | None = None, **values: Any) -> Submission:
    given = [
        GivenOption(name, f"--{name.replace('_', '-')}", v) for name, v in (typed or {}).items()
    ]
    config = SweepConfig.model_validate({"suite": "mini", "out": "/mnt/shared/mini", **values})
    return prepare(config, given, HOME)


def _words(job: Submission) -> list[str]:
    return shlex.split(job.entrypoint.partition("; ")[2])


def test_submit_has_every_option_of_sweep_and_an_id() -> None:
    sweep, submit = _options("sweep"), _options("submit")
    assert set(submit) == {*sweep, "name"}
    for name, option in sweep.items():
        assert submit[name].opts == option.opts
        assert submit[name].multiple == option.multiple


def test_every_option_of_sweep_reaches_the_head(here: Here, tmp_path: Path) -> None:
    """A new option goes along without being named anywhere else."""
    (tmp_path / "space.yaml").write_text("lora: {rank: [2, 4]}\n")
    (tmp_path / "config.yaml").write_text("trials: 3\n")
    given = {
        "adapter": "lora", "tasks": "digits", "backbone": "vit_mini", "sampler": "random",
        "prior": "none", "splits": "folds", "stopping": "none", "protocol": "honest", "trials": "4",
        "recipe": "shared", "seeds": "2", "replicate": "1",
        "epochs": "3", "set": "lr=0.01", "time_budget": "8h",
        "device": "cuda", "precision": "fp32", "backend": "ray", "width": "4",
        "tracking_uri": "http://127.0.0.1:5000", "out": "~/shared/x", "data_root": "/mnt/data",
        "suite_root": "/mnt/vtab", "space": str(tmp_path / "space.yaml"),
        "config": str(tmp_path / "config.yaml"),
    }  # fmt: skip
    # ours; ours; one of vit_mini's spaces at a time; a switch
    skipped = {"address", "dry_run", "preset", "with_default"}
    assert {name.rstrip("_") for name in _options("sweep")} == given.keys() | skipped
    typed = [w for name, v in given.items() for w in (f"--{name.replace('_', '-')}", v)]
    text = here(["submit", "mini", *typed, "--with-default", "--dry-run", "--name", "a"])
    assert text.startswith("a would run on the head:")
    words = shlex.split(text.partition("exec ")[2])
    assert words[:3] == ["orchestrate", "sweep", "mini"]
    assert words[-2:] == ["--address", "auto"]
    expected = given | {"space": "space.yaml", "config": "config.yaml"}
    for name, value in expected.items():
        assert words[words.index(f"--{name.replace('_', '-')}") + 1] == value
    assert "--with-default" in words
    assert len(words) == 3 + 2 * len(given) + 2 + 1


def test_the_head_finds_the_command_and_its_own_home(tmp_path: Path) -> None:
    """The line as a shell runs it, with nothing on the PATH but the system's."""
    program = tmp_path / "venv" / "bin" / "orchestrate"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    line = _prepare({"set": ["lr=1 0"]}, out="~/shared/my sweep").entrypoint
    run = subprocess.run(
        line, shell=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == [
        "sweep", "mini", "--set", "lr=1 0", "--out", f"{tmp_path}/shared/my sweep",
        "--address", "auto",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("~/shared/x", "~/shared/x"),
        ("/home/ada/shared/x", "~/shared/x"),  # the shell here replaced ~
        ("/home/adam/x", "/home/adam/x"),
        ("/mnt/shared/x", "/mnt/shared/x"),
        ("s3://bucket/x", "s3://bucket/x"),
    ],
)
def test_paths_on_the_cluster(given: str, meant: str) -> None:
    assert cluster_path("--out", given, HOME) == meant
    assert cluster_path("--out", "/mnt/x", Path("/")) == "/mnt/x", "a home that is the root"


@pytest.mark.parametrize("name", ["out", "data_root", "suite_root"])
def test_a_path_relative_to_this_machine_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="relative to a folder of this machine"):
        _prepare(**{name: "runs/mini"})


def test_submit_needs_out(here: Here) -> None:
    refused(here, ["submit", "mini"], "needs --out", "~/shared/NAME")


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--adapter", "lorra"], ["Did you mean 'lora'?"]),
        (["--set", "lrr=1"], ["unknown recipe field 'lrr'"]),
        (["--backbone", "vit_base_patch16_224"], ["does not say which weights"]),
        (["--backbone", "vit_mini@weights.npz"], ["relative to a folder of this machine"]),
        (["--tracking-uri", "file:///runs"], ["'file:///runs' is a folder"]),
        (["--backend", "local"], ["leave it out to submit"]),
        (["--name", "a/b"], ["'a/b' is not an id"]),
        (["--space", "nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["--address", "ray://head:10001"], ["is no address of a cluster's dashboard"]),
        (["--address", "http://127.0.0.1:1"], ["no cluster answers at http://127.0.0.1:1"]),
    ],
)
def test_what_is_wrong_ends_here(here: Here, options: list[str], fragments: list[str]) -> None:
    refused(here, ["submit", "mini", "--out", "/mnt/shared/x", *options], *fragments)


@pytest.mark.parametrize(
    "address",
    ["http://ada:hunter2@host", "postgresql://ada:hunter2@host/db", "s3://b/x?secret_key=hunter2"],
)
def test_a_password_is_not_submitted(address: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="MLFLOW_TRACKING_URI") as refusal:
        _prepare({"tracking_uri": [address]}, tracking_uri=address)
    assert "hunter2" not in str(refusal.value)
    (tmp_path / "c.yaml").write_text(f"tracking_uri: {address}\n")
    with pytest.raises(InvalidInput, match="MLFLOW_TRACKING_URI"):
        _prepare({"config": [str(tmp_path / "c.yaml")]})


def _suite(folder: Path, train: str) -> Path:
    path = folder / "garden.yaml"
    path.write_text(
        "name: garden\ntasks:\n  tulips:\n    classes: 3\n"
        f"    folders: {{train: {train}, val: 0.2, test: /mnt/garden/test}}\n"
    )
    return path


def test_an_own_suite_travels_as_a_file(tmp_path: Path) -> None:
    path = _suite(tmp_path, "/mnt/garden/train")
    job = _prepare(suite=str(path))
    assert job.files == {"suite/garden.yaml": path.read_bytes()}
    assert "suite/garden.yaml" in _words(job)
    assert job.id.startswith("garden-")
    assert job.metadata["suite"] == "garden"


def test_its_images_must_be_named_as_the_cluster_knows_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tasks.tulips.folders.train.*only the file is sent"):
        _prepare(suite=str(_suite(tmp_path, "tulips/train")))


def test_status_of_what_is_neither_folder_nor_sweep(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    refused(
        here, ["status", "nothing-like-it"], "no folder 'nothing-like-it'", "no cluster answers"
    )
    refused(here, ["status"], "no cluster answers at http://127.0.0.1:1")
    refused(here, ["status", "./nothing"], "holds no sweep")
