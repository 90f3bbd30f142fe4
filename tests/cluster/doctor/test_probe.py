"""What a machine reports about itself, and whether tracking can be used."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import tasks
from orchestrator.backbones.names import MINI_FILE
from orchestrator.cluster.doctor import collect, probe, torch_probe
from orchestrator.cluster.doctor.records import DoctorOptions, ProbeRequest
from orchestrator.storage.files import fingerprint
from orchestrator.storage.sharing import SharedCheck
from tests.commands import misleading

SUITE = tasks.suite("mini")


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the process that loads torch."""
    monkeypatch.setattr(
        torch_probe, "probe_with_torch", lambda backbone, seconds: {"gpus": [], "cuda": ""}
    )


def test_everything_that_is_requested_is_reported(tmp_path: Path, mini_data: Path) -> None:
    with SharedCheck(tmp_path / "out") as shared, SharedCheck(mini_data) as data:
        found = probe.probe_machine(
            ProbeRequest(
                out=str(tmp_path / "out"),
                out_marker=shared.marker,
                data_root=mini_data,
                data_marker=data.marker,
                store=SUITE.store,
                tasks=SUITE.tasks,
                backbone="vit_mini",
            )
        )
        assert found.out_reply is not None
        assert shared.confirm(found.out_reply) == ""
        assert found.data_reply is not None
        assert data.confirm(found.data_reply) == ""
    assert found.troubles == ()
    assert dict(found.versions)["torch"] == importlib.metadata.version("torch")
    assert found.cores == len(os.sched_getaffinity(0))
    assert min(found.memory_free, found.tmp_free, found.out_free or 0) > 0
    assert {task.problem for task in found.data} == {""}
    assert found.weights == fingerprint(MINI_FILE)


def _hangs(*_: object) -> None:
    time.sleep(60)


def test_a_probe_that_takes_too_long_is_named_and_the_others_are_reported(
    cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(probe, "presence", _hangs)
    monkeypatch.setattr(probe, "_free_memory", _hangs)
    request = ProbeRequest(out=str(tmp_path), store=SUITE.store, tasks=SUITE.tasks)
    found = probe.probe_machine(request)
    late = "no answer within 0.5 s"
    assert found.troubles == (f"machine: {late}", f"data: {late}")
    assert found.out_free
    assert found.versions


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("filesystem", {"out_kind": ""}),
        ("SharedCheck", {"out_problem": "no answer within 0.5 s"}),
        ("tracking_status", {"tracking": "does not answer (no answer within 0.5 s)"}),
    ],
)
def test_what_the_doctor_asks_of_this_machine_has_a_limit_too(
    name: str,
    shown: dict[str, str],
    cheap: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collect, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.5)
    if name == "SharedCheck":
        monkeypatch.setattr(SharedCheck, "__enter__", _hangs)
    else:
        monkeypatch.setattr(collect, name, _hangs)
    options = DoctorOptions(out=str(tmp_path), suite=SUITE, tracking_uri="http://127.0.0.1:1")
    found = collect.inspect(options)
    for field, text in shown.items():
        value = getattr(found, field)
        assert (value.problem if field == "tracking" else value) == text


def test_nothing_is_probed_that_was_not_requested(
    cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PACKAGES", ("torch", "no-such-package"))
    found = probe.probe_machine(ProbeRequest())
    assert dict(found.versions)["no-such-package"] == ""
    assert (found.data, found.weights, found.out_reply, found.out_free) == ((), "", None, None)


def test_a_module_that_hides_another_is_reported(
    cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = misleading(tmp_path / "cwd")
    (folder / "mine.py").touch()
    monkeypatch.chdir(folder)
    assert probe.probe_machine(ProbeRequest()).hidden == ()
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    hidden = probe.probe_machine(ProbeRequest()).hidden
    names = ("adapters", "mlflow", "orchestrator", "profile", "timm")
    assert hidden == tuple((name, str(folder)) for name in names)
    (folder / "timm-1.0.dist-info").mkdir()
    assert probe.probe_machine(ProbeRequest()).hidden == (), "packages are installed there"


def test_where_the_files_of_a_local_cluster_go_is_reported(
    cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert probe.probe_machine(ProbeRequest()).ray_folder == ""
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("t" * 67)))
    assert probe.probe_machine(ProbeRequest()).ray_folder == "/tmp/ray"
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = probe.probe_machine(ProbeRequest())
    assert "t" * 67 in found.ray_problem and "RAY_TMPDIR" in found.ray_problem


def test_a_probe_that_fails_leaves_the_others(cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise OSError("no /proc here")

    monkeypatch.setattr(probe, "_free_memory", broken)
    found = probe.probe_machine(ProbeRequest())
    assert found.troubles == ("machine: no /proc here",)
    assert found.versions
    assert found.code


def test_nvidias_table_is_read() -> None:
    found = probe.parse_smi(["550.54.14, NVIDIA A10G", "550.54.14, NVIDIA A10G", ""])
    assert found == {"driver": "550.54.14", "driver_gpus": ("NVIDIA A10G", "NVIDIA A10G")}
    assert probe.parse_smi([]) == {}


def test_the_error_of_nvidia_smi_is_reported(
    cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (told,) = probe.probe_machine(ProbeRequest()).troubles
    assert told == "driver: nvidia-smi: Driver/library version mismatch"


def test_weights_that_are_not_cached_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(misleading(tmp_path / "cwd"))
    found = torch_probe.probe_with_torch("vit_base_patch16_224.augreg_in21k", 60)
    assert found["weights_fetchable"]
    assert "neither cached nor reachable" in found["weights_problem"]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_of_weights_that_is_not_there_is_a_problem() -> None:
    found = torch_probe.weights("vit_base_patch16_224.augreg_in21k@/no/such.safetensors")
    assert not found["weights_fetchable"]
    assert "there is no file" in found["weights_problem"]


def test_torch_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"not ready after 0\.01 s"):
        torch_probe.probe_with_torch("", 0.01)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="torch cannot be used: exit code 1"):
        torch_probe.probe_with_torch("", 60)


def test_the_driver_that_torch_refuses_is_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old.\nPlease update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert torch_probe.devices() == {
        "cuda": "13.0",
        "gpus": [],
        "gpu_problem": "The NVIDIA driver on your system is too old",
    }


def test_a_changed_file_changes_the_code_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = probe.code_fingerprints()
    files = {"orchestrator/sweep.py", "adapters/lora.py", "search_spaces/published.yaml"}
    assert files <= dict(own).keys()
    for package in probe.CODE:
        shutil.copytree(Path(probe.__file__).parents[3] / package, tmp_path / package)

    def find(package: str) -> SimpleNamespace:
        return SimpleNamespace(submodule_search_locations=[str(tmp_path / package)])

    monkeypatch.setattr(probe, "find_spec", find)
    assert probe.code_digest(probe.code_fingerprints()) == probe.code_digest(own)
    (tmp_path / "adapters" / "lora.py").write_text("# other\n")
    assert probe.code_digest(probe.code_fingerprints()) != probe.code_digest(own)
