"""`orchestrate doctor` on this machine alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands import Here, refused


def test_a_machine_that_is_well(here: Here, tmp_path: Path, mini_data: Path) -> None:
    out = tmp_path / "out"
    shown = here(["doctor", "--suite", "mini", "--out", str(out)])
    for part in ("ok code", "ok versions Python 3", "ok shared", "ok locks", "tracking sqlite:///"):
        assert part in shown, shown
    assert "ok data mini, 6 tasks prepared" in shown
    assert "ok weights vit_mini" in shown
    assert "nothing is wrong" in shown
    assert not out.exists(), "looking leaves nothing"


def test_what_is_wrong_makes_the_exit_code(here: Here, tmp_path: Path) -> None:
    arguments = ["doctor", "--tracking-uri", "http://127.0.0.1:9", "--data-root", str(tmp_path)]
    shown = here([*arguments, "--suite", "mini"], code=1)
    assert "WRONG tracking http://127.0.0.1:9 does not answer" in shown
    assert "→ start it" in shown
    assert "- data mini is not prepared" in shown
    assert "- shared not checked: give the sweep's --out" in shown
    assert "1 wrong" in shown
    assert os.listdir(tmp_path) == []


def test_the_variable_names_tracking_too(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "127.0.0.1:9 does not answer" in here(["doctor"], code=1)


def test_wrong_input_is_code_2(here: Here, tmp_path: Path) -> None:
    refused(here, ["doctor", "--suite", "minni"], "unknown suite 'minni'", "Did you mean 'mini'?")
    (tmp_path / "file").write_text("")
    refused(here, ["doctor", "--out", str(tmp_path / "file")], "is a file", "s3://")
    refused(here, ["doctor", "--out", "nonsense://x"], "nonsense://", "Allowed")
    refused(here, ["doctor", "--out", "s3://key:geheim@bucket/x"], "holds credentials")


def test_a_cluster_that_is_not_there_is_code_2(here: Here) -> None:
    refused(here, ["doctor", "--address", "127.0.0.1:9"], "127.0.0.1:9", "cannot be used")
