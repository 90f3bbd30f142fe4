"""The checks of the kill matrix notice every loss, repetition and difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.results.ledger import Ledger
from orchestrator.storage.files import write_whole
from orchestrator.storage.sweep_paths import SweepPaths
from tests.hosts.same import registry_differences, rows_differences
from tests.hosts.sweeps import Disturbed
from tests.rows import result

ROWS = [result(seed) for seed in range(3)]
ENTRY = "registry/mini/vit_mini/textures/lora"
WEIGHTS = {"a": np.ones((2, 3), np.float32)}


def _log(folder: Path, event: str, key: str, when: int) -> None:
    log = SweepPaths(folder).trial_log
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as file:
        file.write(f"{when}.000 {event} {key} 77 0\n")


@pytest.fixture
def disturbed(tmp_path: Path) -> Disturbed:
    """A folder in which three trials were recorded, one after the other."""
    watched = Disturbed(tmp_path)
    for when, row in enumerate(ROWS):
        _log(tmp_path, "started", row.key, 10 * when)
        Ledger(SweepPaths(tmp_path).ledger).append(row)
        _log(tmp_path, "recorded", row.key, 10 * when + 5)
    return watched


def _fragment(folder: Path) -> Path:
    return folder / "ledger" / "fragments" / f"{ROWS[0].key}.parquet"


def _rewrite(folder: Path) -> None:
    write_whole(_fragment(folder), _fragment(folder).read_bytes(), folder / "ledger" / "tmp")


TROUBLE: dict[str, Callable[[Path], object]] = {
    "written in place": lambda folder: _fragment(folder).write_bytes(
        _fragment(folder).read_bytes()
    ),
    "lost": lambda folder: _fragment(folder).unlink(),
    "put in again": _rewrite,
    "recorded twice": lambda folder: _log(folder, "recorded", ROWS[0].key, 70),
    "trained again": lambda folder: _log(folder, "started", ROWS[0].key, 70),
    "one too many": lambda folder: Ledger(SweepPaths(folder).ledger).append(result(9)),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_a_lost_or_repeated_trial_is_noticed(name: str, disturbed: Disturbed) -> None:
    disturbed.check_counts(3)
    TROUBLE[name](disturbed.folder)
    with pytest.raises(AssertionError):
        disturbed.check_counts(3)


def _write(out: Path) -> Path:
    entry = {"task": "textures", "test_accuracy": 0.75, "path": "mini", "sha256": {"x": "1"}}
    evidence = {"val": {"mean": 0.5}, "code": "1", "finals": [{"seed": 1}]}
    (out / ENTRY).mkdir(parents=True)
    (out / "registry/index.json").write_text(json.dumps({"created": 1.0, "entries": [entry]}))
    (out / ENTRY / "evidence.json").write_text(json.dumps(evidence))
    save_file(WEIGHTS, out / ENTRY / "adapter_model.safetensors")
    return out


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a number": lambda out: _edit(
        out / "registry/index.json", lambda i: i["entries"][0].update(test_accuracy=0.745)
    ),
    "an entry more": lambda out: _edit(
        out / "registry/index.json", lambda i: i["entries"].append(i["entries"][0])
    ),
    "a field less": lambda out: _edit(
        out / "registry/index.json", lambda i: i["entries"][0].pop("path")
    ),
    "a seed": lambda out: _edit(
        out / ENTRY / "evidence.json", lambda e: e["finals"][0].update(seed=2)
    ),
    "a weight": lambda out: save_file(
        {"a": WEIGHTS["a"] + np.eye(2, 3, dtype=np.float32) * 1e-3},
        out / ENTRY / "adapter_model.safetensors",
    ),
    "a file less": lambda out: (out / ENTRY / "evidence.json").unlink(),
    "a file more": lambda out: (out / ENTRY / "more.json").write_text("{}"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_of_two_registries_is_reported(name: str, tmp_path: Path) -> None:
    one, other = _write(tmp_path / "one"), _write(tmp_path / "other")
    _edit(other / "registry/index.json", lambda index: index.update(created=2.0))
    _edit(other / ENTRY / "evidence.json", lambda e: e["val"].update(mean=0.5000001))
    save_file({"a": WEIGHTS["a"] + 1e-6}, other / ENTRY / "adapter_model.safetensors")
    assert registry_differences(one, other) == [], "times and rounding may differ"
    CHANGES[name](other)
    assert len(registry_differences(one, other)) == 1


def test_two_folders_without_a_registry_do_not_agree(tmp_path: Path) -> None:
    assert registry_differences(tmp_path, tmp_path)


def test_a_difference_of_two_ledgers_is_reported() -> None:
    row = ROWS[0]
    same = replace(row, host="another", started=1.0, finished=2.0, seconds=3.0, code="x")
    assert rows_differences({row.key: row}, {row.key: same}) == []
    assert rows_differences({row.key: row}, {})
    for changed in (
        replace(row, value=0.1),
        replace(row, correct=b"\0" + row.correct),
        replace(row, curve=row.curve[:-1]),
        replace(row, status="diverged"),
    ):
        assert len(rows_differences({row.key: row}, {row.key: changed})) == 1, changed
