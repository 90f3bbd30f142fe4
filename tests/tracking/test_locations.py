from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.tracking.locations import (
    URI_VARIABLE,
    chosen_uri,
    default_uri,
    set_variables,
    sqlite_file,
    viewer,
)


def test_the_option_wins_over_the_variable_and_that_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI_VARIABLE, "")
    assert chosen_uri(tmp_path, None) == default_uri(tmp_path)
    assert sqlite_file(default_uri(tmp_path)) == tmp_path / "mlflow.db"
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:5000")
    assert chosen_uri(tmp_path, None) == "http://127.0.0.1:5000"
    assert chosen_uri(tmp_path, "sqlite:///x.db") == "sqlite:///x.db"


def test_runs_are_looked_at_where_they_are(tmp_path: Path) -> None:
    assert viewer("runs/x", tmp_path, default_uri(tmp_path)) == "orchestrate ui runs/x"
    other = viewer("runs/x", tmp_path, "postgresql://me:secret@host/mlflow")
    assert other == "orchestrate ui runs/x --tracking-uri postgresql://***@host/mlflow"
    assert viewer("runs/x", tmp_path, "http://me:secret@host:5000") == "http://***@host:5000"


def test_a_variable_that_a_person_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    set_variables()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
    assert os.environ["DO_NOT_TRACK"] == "true"
