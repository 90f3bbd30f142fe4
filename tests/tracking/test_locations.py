"""Where tracking goes, and where a person sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.tracking.environment import URI_VARIABLE
from orchestrator.tracking.locations import chosen_uri, default_uri, viewer


def test_the_option_wins_over_the_variable_and_that_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_uri(tmp_path, None) == default_uri(tmp_path)
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:5000")
    assert chosen_uri(tmp_path, None) == "http://127.0.0.1:5000"
    assert chosen_uri(tmp_path, "sqlite:///x.db") == "sqlite:///x.db"


def test_runs_are_looked_at_where_they_are(tmp_path: Path) -> None:
    assert viewer("runs/x", tmp_path, default_uri(tmp_path)) == "orchestrate ui runs/x"
    other = viewer("runs/x", tmp_path, "postgresql://me:secret@host/mlflow")
    assert other == "orchestrate ui runs/x --tracking-uri postgresql://***@host/mlflow"
    assert viewer("runs/x", tmp_path, "http://me:secret@host:5000") == "http://***@host:5000"
