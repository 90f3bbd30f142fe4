"""The benchmarks: their arithmetic, and a rehearsal with nothing but the bare libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("throughput", "profile", "precision", "widths", "side")
ABSENT = (
    "ray", "optuna", "mlflow", "pydantic", "typer", "rich", "sklearn", "scipy", "matplotlib",
    "jinja2",
)  # fmt: skip
"""What a bare GPU machine does not have."""


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from arms import figures

    return figures


def _script(figures: ModuleType) -> Any:
    """Two trials of three epochs, one after the other: 4 s until the first step, 2 s an epoch."""
    processes = tuple(
        figures.Process(at, at + 4, ((at + 6, 1), (at + 8, 1), (at + 10, 1))) for at in (100, 111)
    )
    return figures.ArmRun(100, 122, 1, 1, processes, {0: 0.5, 1: 0.7}, free=2)


def _pools(figures: ModuleType) -> Any:
    """Two pools of two trials each, two epochs: 5 s until the first step, 3 s for both trials."""
    process = figures.Process(0, 5, ((8, 2), (11, 2)))
    return figures.ArmRun(0, 12, 2, 2, (process, process), {}, per_trial=False)


def test_rates_of_one_process_per_trial(figures: ModuleType) -> None:
    run = _script(figures)
    assert (run.seconds, run.startup, run.trial_epochs) == (20, 4, 6)
    assert run.steady == pytest.approx(30)  # an epoch in 2 s
    assert run.whole == pytest.approx(18)  # 6 epochs in 20 s


def test_rates_of_pools_side_by_side(figures: ModuleType) -> None:
    run = _pools(figures)
    assert run.steady == pytest.approx(80)  # each pool 2 trial-epochs in 3 s
    assert run.whole == pytest.approx(40)


def test_every_process_pays_its_start_and_a_pool_only_once(figures: ModuleType) -> None:
    script, pools = _script(figures), _pools(figures)
    assert script.minutes(2, 3) == pytest.approx(20 / 60)  # what it took
    assert script.minutes(200, 3) == pytest.approx(2000 / 60)
    assert pools.minutes(4, 2) == pytest.approx(12 / 60)
    assert pools.minutes(400, 2) == pytest.approx((6 + 100 * 6) / 60)
    assert pools.minutes(1, 2) == pools.minutes(4, 2)  # slots that stay empty spare nothing


def test_no_steady_state_without_a_second_epoch(figures: ModuleType) -> None:
    run = figures.ArmRun(0, 9, 1, 1, (figures.Process(0, 5, ((8, 1),)),), {})
    assert run.steady is None
    assert figures.ratio(run.steady, 3.0) is None
    assert figures.ratio(6.0, 3.0) == 2


def test_arms_are_compared_on_the_trials_that_both_ran(figures: ModuleType) -> None:
    base = {0: 0.5, 1: 0.6, 2: 0.7, 3: 0.8}
    same = figures.compare({0: 0.5, 1: 0.61, 9: 0.1}, base)
    assert (same["trials"], same["difference"], same["verdict"]) == (2, 0.005, "agrees")
    noisy = figures.compare({0: 0.4, 1: 0.7, 2: 0.6, 3: 0.92}, base)
    assert (noisy["difference"], noisy["verdict"]) == (0.005, "agrees")
    worse = figures.compare({t: a - 0.05 for t, a in base.items()}, base)
    assert (worse["difference"], worse["verdict"]) == (-0.05, "differs")
    assert figures.compare({0: None}, base)["verdict"] == "diverged in one only"
    assert figures.compare({7: 0.5}, base)["verdict"] == "no common trial"


@pytest.mark.long
@pytest.mark.timeout(600)  # two minutes on two free cores; a dozen processes load torch
def test_a_half_hour_on_a_gpu_is_rehearsed_with_only_the_bare_libraries(tmp_path: Path) -> None:
    """`gpu.sh` on the CPU, with too little time at first."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    # Python runs this file at every start, in the processes of the arms too: importing any of
    # these names fails, and looking for them finds nothing.
    (shadow / "sitecustomize.py").write_text(
        f"import sys\nfor name in {ABSENT!r}:\n    sys.modules[name] = None\n"
    )
    said = [_rehearse(tmp_path / "out", shadow, allowed) for allowed in (45, 500)]
    assert "for the next call: " in said[0]
    assert "== check" in said[0]
    assert "== check" not in said[1], "what is done is not done again"
    assert "stock: skipped, Ray is not installed" in "".join(said)
    assert "nothing is left" in said[1]
    stages = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in STAGES}

    for name, one in stages["profile"]["widths"].items():
        assert sum(one["share_of_busy"].values()) == pytest.approx(1, abs=1e-3), name
        assert 0 < one["busy_ms"] < 2 * one["step_ms"], name
        assert 0 < one["share_of_best_rate"] < 1, name
        assert one["longest"][0]["ms"] >= one["longest"][-1]["ms"] > 0, name
    precisions = stages["precision"]["precisions"]
    base = precisions["fp32"]
    assert base["loss_difference"] == base["accuracy_difference"] == [0, 0]
    for one in precisions.values():
        assert abs(one["loss_difference"][0]) < 0.01
        assert one["accuracy"] > 0.3
    for one in stages["widths"]["adapters"].values():
        measured = {step["width"]: step for step in one["measured"]}
        assert one["width"] in measured
        assert all(step["images_per_second"] > 0 for step in measured.values())

    for one in stages["side"]["widths"].values():
        assert one["last"]["times_lora"] > 0
        assert one["lora"]["times_lora"] == 1

    found = stages["throughput"]
    assert found["skipped"] == {"stock": "Ray is not installed"}
    assert list(found["arms"]) == list(found["raw"]) == ["script", "tuned", "pool-2"]
    assert {"commit", "cpu", "versions", "roofline", "work", "targets"} <= set(found)
    for name, row in found["arms"].items():
        assert row["steady_trial_epochs_per_minute"] > 0, name
        assert row["startup_seconds"] > 0, name
        assert set(row["minutes"]) == {"1", "10", "100", "1000"}, name
        assert row["trials"] >= 1, name
        # All arms take the same steps, so that what differs is rounding: at most one image of 200.
        assert row["against_tuned"]["trials"] >= 1, name
        assert abs(row["against_tuned"]["difference"]) <= 0.005, name
        assert row["val_accuracy"]["mean"] > 0.3, name  # 8 classes: it has learnt something
    pool = found["arms"]["pool-2"]
    tuned = found["arms"]["tuned"]["steady_trial_epochs_per_minute"]
    ratio = pool["steady_trial_epochs_per_minute"] / tuned
    assert pool["steady_ratio"]["tuned"] == pytest.approx(ratio, abs=0.01)


def _rehearse(folder: Path, shadow: Path, allowed: int) -> str:
    """What `gpu.sh` prints when it may take so many seconds."""
    variables = {"REHEARSAL": "1", "DEVICE": "cpu", "BACKBONE": "vit_mini", "MORE": ""}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "benchmarks/gpu.sh", str(folder)], cwd=ROOT,
        env={**os.environ, **variables, "PYTHONPATH": str(shadow), "PATH": path,
             "ALLOWED": str(allowed)},
        capture_output=True, text=True, timeout=allowed + 60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr + run.stdout
    return run.stdout
