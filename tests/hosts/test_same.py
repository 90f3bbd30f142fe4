"""The comparison of sweeps sees every difference but those that are allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.hosts.same import registry_differences, rows_differences
from tests.rows import result

ENTRY = "registry/mini/vit_mini/textures/lora"
WEIGHTS = {"a": np.ones((2, 3), np.float32)}


def _write(out: Path) -> None:
    entry = {"task": "textures", "test_accuracy": 0.75, "path": "mini", "sha256": {"x": "1"}}
    index = {"format": 1, "created": 1.0, "entries": [entry]}
    evidence = {"val": {"mean": 0.5, "std": None}, "code": "1", "finals": [{"seed": 1}]}
    (out / ENTRY).mkdir(parents=True)
    (out / "registry/index.json").write_text(json.dumps(index))
    (out / ENTRY / "evidence.json").write_text(json.dumps(evidence))
    save_file(WEIGHTS, out / ENTRY / "adapter_model.safetensors")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with equal registries."""
    for name in ("one", "other"):
        _write(tmp_path / name)
    return tmp_path / "one", tmp_path / "other"


def _change(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_equal_ones_have_no_difference(two: tuple[Path, Path]) -> None:
    assert registry_differences(*two) == []


def test_times_versions_and_rounding_may_differ(two: tuple[Path, Path]) -> None:
    _change(two[1] / "registry/index.json", lambda index: index.update(created=2.0))
    _change(two[1] / ENTRY / "evidence.json", lambda e: e.update(code="2"))
    _change(two[1] / ENTRY / "evidence.json", lambda e: e["val"].update(mean=0.5000001))
    save_file({"a": WEIGHTS["a"] + 1e-6}, two[1] / ENTRY / "adapter_model.safetensors")
    assert registry_differences(*two) == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "a value of the index": lambda out: _change(
        out / "registry/index.json", lambda i: i["entries"][0].update(test_accuracy=0.745)
    ),
    "an entry more": lambda out: _change(
        out / "registry/index.json", lambda i: i["entries"].append(i["entries"][0])
    ),
    "a field less": lambda out: _change(
        out / "registry/index.json", lambda i: i["entries"][0].pop("path")
    ),
    "a fingerprint": lambda out: _change(
        out / "registry/index.json", lambda i: i["entries"][0]["sha256"].update(x="2")
    ),
    "the evidence": lambda out: _change(
        out / ENTRY / "evidence.json", lambda e: e["finals"][0].update(seed=2)
    ),
    "a kind": lambda out: _change(out / ENTRY / "evidence.json", lambda e: e["val"].update(std=0)),
    "a weight": lambda out: save_file(
        {"a": WEIGHTS["a"] + np.eye(2, 3, dtype=np.float32) * 1e-3},
        out / ENTRY / "adapter_model.safetensors",
    ),
    "a shape": lambda out: save_file(
        {"a": WEIGHTS["a"].T.copy()}, out / ENTRY / "adapter_model.safetensors"
    ),
    "a file less": lambda out: (out / ENTRY / "evidence.json").unlink(),
    "a file more": lambda out: (out / ENTRY / "more.json").write_text("{}"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_other_difference_is_told(name: str, two: tuple[Path, Path]) -> None:
    CHANGES[name](two[1])
    assert len(registry_differences(*two)) == 1
    assert len(registry_differences(*reversed(two))) == 1


def test_two_empty_folders_are_not_the_same_registry(tmp_path: Path) -> None:
    assert registry_differences(tmp_path, tmp_path)


def test_rows_differ_in_results_and_not_in_times_and_hosts() -> None:
    row = result()
    same = replace(row, host="another", started=1.0, finished=2.0, seconds=3.0, code="x")
    assert rows_differences({row.key: row}, {row.key: same}) == []
    assert rows_differences({row.key: row}, {})
    for changed in (
        replace(row, value=0.1),
        replace(row, correct=b"\0" + row.correct),
        replace(row, curve=row.curve[:-1]),
        replace(row, test_reads=row.test_reads + 1),
        replace(row, status="diverged"),
    ):
        assert len(rows_differences({row.key: row}, {row.key: changed})) == 1, changed
