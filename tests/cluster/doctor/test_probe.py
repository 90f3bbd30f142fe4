"""What this machine says of itself."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import tasks
from orchestrator.backbones import MINI_FILE
from orchestrator.cluster.doctor import code, heavy, probe
from orchestrator.cluster.doctor.records import Question
from orchestrator.storage.files import fingerprint
from orchestrator.storage.sharing import SharedCheck

SUITE = tasks.suite("mini")


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the process that loads torch."""
    monkeypatch.setattr(heavy, "look", lambda backbone, seconds: {"gpus": [], "cuda": ""})


def test_it_answers_everything_that_is_asked(tmp_path: Path, mini_data: Path) -> None:
    with SharedCheck(tmp_path / "out") as shared, SharedCheck(mini_data) as data:
        found = probe.examine(
            Question(
                out=str(tmp_path / "out"),
                sign=shared.marker,
                data_root=mini_data,
                data_sign=data.marker,
                store=SUITE.store,
                tasks=SUITE.tasks,
                backbone="vit_mini",
            )
        )
        assert found.sight is not None
        assert shared.confirm(found.sight) == ""
        assert found.data_sight is not None
        assert data.confirm(found.data_sight) == ""
    assert found.troubles == ()
    assert dict(found.versions)["torch"] == importlib.metadata.version("torch")
    assert found.cores == len(os.sched_getaffinity(0))
    assert min(found.memory_free, found.tmp_free, found.out_free or 0) > 0
    assert {task.problem for task in found.data} == {""}
    assert found.weights == fingerprint(MINI_FILE)


def test_nothing_is_looked_for_that_nobody_asked(cheap: None) -> None:
    found = probe.examine(Question())
    assert (found.data, found.weights, found.sight, found.out_free) == ((), "", None, None)


def test_a_look_that_fails_leaves_the_others(cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise OSError("no /proc here")

    monkeypatch.setattr(probe, "_free_memory", broken)
    found = probe.examine(Question())
    assert found.troubles == ("machine: no /proc here",)
    assert found.versions
    assert found.code


def test_a_package_that_is_missing_has_no_version(
    cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PACKAGES", ("torch", "no-such-package"))
    assert dict(probe.examine(Question()).versions)["no-such-package"] == ""


def test_nvidias_table_is_read() -> None:
    found = probe.parse_smi(["550.54.14, NVIDIA A10G", "550.54.14, NVIDIA A10G", ""])
    assert found == {"driver": "550.54.14", "driver_gpus": ("NVIDIA A10G", "NVIDIA A10G")}
    assert probe.parse_smi([]) == {}


def test_nvidias_own_trouble_is_told(
    cheap: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Driver/library version mismatch'; exit 18\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (told,) = probe.examine(Question()).troubles
    assert told == "driver: nvidia-smi: Driver/library version mismatch"


def test_weights_that_are_not_cached_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = heavy.look("vit_base_patch16_224.augreg_in21k", 60)
    assert found["weights_fetchable"]
    assert "neither cached nor reachable" in found["weights_problem"]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_of_weights_that_is_not_there_is_a_problem() -> None:
    found = heavy.weights("vit_base_patch16_224.augreg_in21k@/no/such.safetensors")
    assert not found["weights_fetchable"]
    assert "there is no file" in found["weights_problem"]


def test_torch_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"not ready after 0\.01 s"):
        heavy.look("", 0.01)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="torch cannot be used: exit code 1"):
        heavy.look("", 60)


def test_the_driver_that_torch_refuses_is_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old.\nPlease update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert heavy.devices() == {
        "cuda": "13.0",
        "gpus": [],
        "gpu_problem": "The NVIDIA driver on your system is too old",
    }


def test_code_is_that_of_the_packages_and_a_change_is_found(tmp_path: Path) -> None:
    found = code.fingerprints()
    names = [name for name, _ in found]
    assert {"orchestrator/sweep.py", "adapters/lora.py", "search_spaces/published.yaml"} <= set(
        names
    )
    source = Path(code.__file__).parents[2]
    for package in code.PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / package, tmp_path / package, ignore=ignored)
    run = "from orchestrator.cluster.doctor import code; print(code.whole(code.fingerprints()))"

    def there() -> str:
        command = [sys.executable, "-c", run]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert there() == code.whole(found)
    (tmp_path / "adapters" / "lora.py").write_text("# other\n")
    assert there() != code.whole(found)


def test_files_that_differ_or_are_missing_are_named() -> None:
    mine, theirs = (("a", "1"), ("b", "2"), ("c", "3")), (("a", "1"), ("b", "9"))
    assert code.differences(mine, theirs) == ["b", "c"]
