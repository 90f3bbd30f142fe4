"""Kept logits come back as probabilities, or it is said once why they do not."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.results import predictions
from orchestrator.spec import TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.analysis.synthetic import result, trial

LOGITS = np.array([[0.0, -1.0, -65504.0], [-0.5, 0.0, -2.0]])
LABELS = np.array([0, 2])


def kept(paths: SweepPaths, seed: int = 1) -> TrialResult:
    row = result(trial(stage="final", seed=seed))
    name = predictions.save(LOGITS, LABELS, paths.predictions_of(row.key))
    return replace(row, files={predictions.FILE: name})


def test_probabilities_come_back(tmp_path: Path) -> None:
    paths = SweepPaths(tmp_path)
    found = predictions.load(paths, kept(paths))
    assert found is not None
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-3)
    assert found.labels.tolist() == [0, 2]
    assert predictions.load(paths, result(trial(stage="final"))) is None, "an earlier version's"


def test_what_cannot_be_used_is_told_once(tmp_path: Path) -> None:
    paths, told = SweepPaths(tmp_path), list[str]()
    rows = [kept(paths, seed) for seed in (1, 2, 3)]
    path = paths.predictions_of(rows[0].key)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    asked: list[Path] = []
    for row in rows[1:]:
        paths.predictions_of(row.key).unlink()
    read = predictions.reader(paths, asked.append, told.append)
    assert [read(row) for row in rows] == [None] * 3
    assert asked == [paths.predictions_of(row.key) for row in rows[1:]], "from an object store"
    damaged, missing = told
    assert str(path) in damaged and "its SHA-256 differs" in damaged
    assert "predictions' lacks files" in missing and "fetch --all" in missing


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"no safetensors"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    paths = SweepPaths(tmp_path)
    row = kept(paths)
    paths.predictions_of(row.key).write_bytes(content)
    own = replace(row, files={predictions.FILE: hashlib.sha256(content).hexdigest()})
    with pytest.raises(ValueError, match="cannot be used"):
        predictions.load(paths, own)
