from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from sqlalchemy import make_url

from orchestrator.errors import InvalidInput
from orchestrator.storage.addresses import redacted
from orchestrator.tracking.locations import (
    URI_VARIABLE,
    check_uri,
    chosen_uri,
    default_uri,
    set_variables,
    sqlite_file,
    unreachable,
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


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("./mlruns", "is a folder"),
        ("/data/mlruns?x", "is a folder"),
        ("file:///data/mlruns", "is a folder"),
        ("http:/host", "is incomplete"),
        ("https://", "is incomplete"),
        ("sqlite://x.db", "is incomplete"),
        ("postgresql:mlflow", "is incomplete"),
        ("nonsense://me:geheim@x", "unknown kind"),
        ("postgres://h/db", "unknown kind"),
    ],
)
def test_an_address_where_no_runs_can_be_is_refused(uri: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{problem}.* --tracking-uri .*sqlite:///") as caught:
        check_uri(uri)
    assert redacted(uri) in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["http://h:5000", "HTTPS://h", "sqlite:///x.db", "sqlite:////a/x.db", "databricks",
     "databricks://profile", "postgresql+psycopg:///mlflow?host=/run", "mysql://me:x@h/db"],
)  # fmt: skip
def test_an_address_of_a_server_or_database_is_taken(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize("name", ["a b", "[/x]", "#1", "what?", "50%25", "%3F", "a?b&c=d#e"])
def test_any_folder_has_a_database_inside_it(name: str, tmp_path: Path) -> None:
    uri = default_uri(tmp_path / name)
    assert sqlite_file(uri) == Path(str(make_url(uri).database)) == tmp_path / name / "mlflow.db"


def test_a_command_to_type_is_quoted(tmp_path: Path) -> None:
    words = shlex.split(viewer("runs/a [b]; c", tmp_path, "sqlite:////a b.db"))
    assert words == ["orchestrate", "ui", "runs/a [b]; c", "--tracking-uri", "sqlite:////a b.db"]


def test_a_reason_is_whole_sentences(tmp_path: Path) -> None:
    def told(reason: str) -> str:
        text = str(unreachable(tmp_path, "http://h", reason))
        return text.partition("does not work: ")[2].partition(" Nothing is lost")[0]

    assert told("refused") == "refused."
    assert told(f"It is full. {'x ' * 200}") == "It is full."
    assert told("word " * 99).endswith("word …")


def test_a_variable_that_a_person_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    set_variables()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
    assert os.environ["DO_NOT_TRACK"] == "true"
