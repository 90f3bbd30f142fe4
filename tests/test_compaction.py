"""A sweep compacts a large ledger when it concludes. Kills: tests/results/test_ledger.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import sweep
from tests.commands import Here, events, results, small_sweep


def test_a_concluded_sweep_compacts_its_ledger_and_goes_on_from_it(
    tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = small_sweep(out, "local", tasks="tulips")
    monkeypatch.setattr(sweep, "COMPACT_FROM", 2)
    here(command)
    before, trained = results(out), len(events(out))
    finals = {key for key, row in before.items() if row.trial.stage == "final"}
    assert {path.stem for path in (out / "ledger" / "fragments").iterdir()} == finals
    assert len(os.listdir(out / "ledger" / "compacted")) == 1

    here(command)
    assert results(out) == before
    assert len(events(out)) == trained, "nothing was trained again"

    command[command.index("--seeds") + 1] = "3"
    here(command)
    after = results(out)
    assert before.items() <= after.items()
    assert {row.trial.seed for row in after.values()} == {0, 1, 2, 3}
    assert "clean: in" in here(["audit", str(out)])
