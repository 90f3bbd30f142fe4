from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.storage.addresses import has_secret, location, redacted


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
    assert redacted(text) == clean
    assert has_secret(text) == (text != clean)


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    assert redacted("refused: hunter2") == "refused: ***"


def test_a_location_has_neither_user_nor_options() -> None:
    assert location("s3://key:secret@bucket/sweep?region=x") == "s3://bucket/sweep"
    assert location("/data/a@b?c") == location(Path("/data/a@b?c")) == "/data/a@b?c"
    assert not has_secret("s3://anonymous@bucket/x")
