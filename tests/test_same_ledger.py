"""Both backends drive one search object: grid or random without early stopping, the same ledger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands import check_once_each, misleading, results, run, small_sweep, widest


@pytest.mark.long
@pytest.mark.timeout(300)
def test_ray_and_local_fill_the_same_ledger(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies in the current folder, however long $TMPDIR is, and with a proxy."""
    (tmp_path / ("t" * 60)).mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("t" * 60)))
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    cwd = misleading(tmp_path / "cwd")
    ledgers = []
    for backend in ("local", "ray"):
        out = tmp_path / backend / "out"
        out.parent.mkdir()
        # Trials of a second, so that the second pool starts before the first has taken them all.
        options = ("--sampler", "random", "--trials", "2", "--width", "1", "--epochs", "20")
        ended = run(small_sweep(out, backend, *options, tasks="tulips"), data_root, cwd=cwd)
        assert ended.returncode == 0, ended.stdout
        assert (out / "mlflow.db").exists(), ended.stdout
        check_once_each(out)
        # A custom Searcher gets one pending trial from Tune by default, which would starve pools.
        pools = min(len(os.sched_getaffinity(0)), 4)
        most = {"local": 1, "ray": 2 * pools}  # one trial waits to take the slot
        assert widest(out) == min(most[backend], 4), "the pools reach their width and keep to it"
        ledgers.append(results(out))
    local, ray = ledgers
    assert set(local) == set(ray)
    for key, row in local.items():
        other = ray[key]
        assert (row.status, row.epochs_run, row.parameters, row.test_reads) == (
            other.status, other.epochs_run, other.parameters, other.test_reads,
        )  # fmt: skip
        assert row.value == pytest.approx(other.value, abs=1e-5)
        assert row.eval_loss == pytest.approx(other.eval_loss, abs=1e-5)
        assert [p.loss for p in row.curve] == pytest.approx([p.loss for p in other.curve], abs=1e-5)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_an_asynchronous_search_keeps_the_invariants(
    backend: str, tmp_path: Path, data_root: Path
) -> None:
    out = tmp_path / "out"
    space = tmp_path / "wide.yaml"
    options = ("--sampler", "tpe", "--stopping", "asha", "--trials", "5")
    arguments = small_sweep(out, backend, *options, tasks="tulips")
    space.write_text("lora: {rank: [2, 4, 8, 16], lr: {low: 1.0e-5, high: 0.02, log: true}}\n")
    arguments[arguments.index("--space") + 1] = str(space)
    arguments[arguments.index("--epochs") + 1] = "4"
    ended = run(arguments, data_root)
    assert ended.returncode == 0, ended.stdout
    check_once_each(out)
    rows = results(out)
    of_lora = [row for row in rows.values() if row.trial.study == "tulips/lora"]
    searched = [row for row in of_lora if row.trial.stage == "search"]
    assert len(searched) == 5, "the budget is met"
    assert len({row.trial.config for row in searched}) == 5, "no configuration twice"
    assert {row.status for row in searched} <= {"finished", "stopped"}
    assert all(row.stopping == "asha" for row in searched if row.status == "stopped")
    finals = [row for row in of_lora if row.trial.stage == "final"]
    assert len({row.trial.config for row in finals}) == 1
    assert [row.test_reads for row in finals] == [1, 1]
