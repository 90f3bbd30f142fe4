"""The benchmarks that need no accelerator still run, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.results.ledger import Ledger
from tests.imports import ROOT


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks import each other as scripts in one folder do."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_ledger_of_made_up_rows_is_one_that_is_read_row_by_row_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger_rows = __import__("ledger_rows")
    monkeypatch.setattr(ledger_rows, "PIECE", 200)
    ledger_rows.make(tmp_path, 500)
    found = ledger_rows.measure(tmp_path)
    assert found["rows"] == len(Ledger(tmp_path).results()) == 500
    assert len(list((tmp_path / "compacted").iterdir())) == 1
    assert found["studies"] == 152


def test_the_sweep_of_the_bookkeeping_benchmark_has_the_trials_it_says(tmp_path: Path) -> None:
    bookkeeping = __import__("bookkeeping")
    paths = __import__("orchestrator.storage.sweep_paths", fromlist=["Places"]).SweepPaths(tmp_path)
    _, sweep, studies = bookkeeping.planned(2000, paths)
    assert len(studies) * bookkeeping.PER_STUDY == 2000
    assert sweep.stopping == "none"


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_sweep_whose_trials_train_nothing_records_them_all() -> None:
    bookkeeping = __import__("bookkeeping")
    found = bookkeeping.measured("ours", 50, 2)
    assert found["trials"] == 50
    assert found["run"] > 0
