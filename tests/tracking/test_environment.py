from __future__ import annotations

import os

import pytest

from orchestrator.tracking import environment


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://u:p@host:1/x", "http://***@host:1/x"),
        ("postgresql+psycopg://u:p%40x@host/db", "postgresql+psycopg://***@host/db"),
        ("a://u:1@b and c://v:2@d", "a://***@b and c://***@d"),
        ("https://h/?token=abc&x=1", "https://h/?token=***&x=1"),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
    ],
)
def test_credentials_are_hidden(text: str, clean: str) -> None:
    assert environment.redact(text) == clean


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    assert environment.redact("refused: hunter2") == "refused: ***"


def test_a_variable_that_a_person_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    environment.prepare()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
    assert os.environ["DO_NOT_TRACK"] == "true"
