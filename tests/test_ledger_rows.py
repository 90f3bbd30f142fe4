"""The benchmark of a large ledger still runs, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.results.ledger import Ledger
from tests.imports import ROOT


def test_a_ledger_of_made_up_rows_is_one_that_is_read_row_by_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # they import each other as scripts
    ledger_rows = __import__("ledger_rows")
    monkeypatch.setattr(ledger_rows, "PIECE", 200)
    ledger_rows.make(tmp_path, 500)
    found = ledger_rows.measure(tmp_path)
    assert found["rows"] == len(Ledger(tmp_path).results()) == 500
    assert len(list((tmp_path / "compacted").iterdir())) == 1
    assert found["studies"] == 152
