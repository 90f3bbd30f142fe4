"""Ctrl-C and SIGTERM at any moment of a command, once and more often."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from orchestrator import sweep
from orchestrator.search.study import StudyProgress
from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import Here, heed_interrupts, small_sweep

LISTENS = """
import time
from orchestrator.cli.interrupts import INTERRUPTS
INTERRUPTS.listen()
"""
ENDS_SLOWLY = f"""{LISTENS}
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(60)
"""
ENDS_SOON = ENDS_SLOWLY.replace("sleep(60)", "sleep(2)")
FINISHES = f"""{LISTENS}
INTERRUPTS.finish()
print("ready", flush=True)
time.sleep(3)
print("finished")
"""
IMPORTS = """
from orchestrator.cli.interrupts import answered
with answered():
    import time
    print("ready", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise ImportError("a module in C was interrupted") from None
"""


def _signalled(script: str, numbers: list[signal.Signals], gap: float) -> tuple[int, str, float]:
    """The exit code of a script that gets these signals, its output, and how long it took."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        for index, number in enumerate(numbers):
            time.sleep(gap if index else 0)
            process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, output, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("count", [2, 4])
def test_the_second_signal_stops_at_once_with_a_sentence(
    number: signal.Signals, count: int
) -> None:
    code, output, seconds = _signalled(ENDS_SLOWLY, [number] * count, 0.7)
    assert code == 130
    assert output.startswith("orchestrate: stopped at once; nothing finished is lost")
    assert seconds < 10


def test_a_signal_that_a_wrapper_passes_on_again_counts_once() -> None:
    code, output, _ = _signalled(ENDS_SOON, [signal.SIGINT] * 4, 0.05)
    assert (code, output) == (0, "orchestrate: ending in good order; Ctrl-C again stops at once\n")


def test_a_short_last_step_finishes_and_can_be_stopped() -> None:
    code, output, _ = _signalled(FINISHES, [signal.SIGINT], 0)
    assert code == 0
    assert output.endswith("finished\n")
    code, output, _ = _signalled(FINISHES, [signal.SIGINT, signal.SIGTERM], 0.7)
    assert code == 130
    assert "stopped at once" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_imports_end_in_a_sentence(number: signal.Signals) -> None:
    code, output, _ = _signalled(IMPORTS, [number], 0)
    assert (code, output.count("\n")) == (130, 1), output
    assert "run the same command again" in output


def test_what_a_shell_has_a_command_ignore_stays_ignored() -> None:
    ignored = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    script = ignored + FINISHES.replace("INTERRUPTS.finish()", "")
    code, output, _ = _signalled(script, [signal.SIGINT] * 2, 0.7)
    assert (code, output) == (0, "finished\n")


@pytest.mark.parametrize(("step", "code"), [("conclude", 1), ("_publish_data", 130)])
def test_a_sweep_is_interrupted_before_or_after_its_trials(
    step: str, code: int, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards it finishes with report and code as if nothing had been; before, it ends."""
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    whole = getattr(sweep, step)

    def interrupted(*given: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return whole(*given)

    monkeypatch.setattr(sweep, step, interrupted)
    monkeypatch.setattr(sweep, "_train", lambda *_: False)  # as if it had ended
    text = here(small_sweep(tmp_path / "out", "local", tasks="tulips"), code=code)
    signal.signal(signal.SIGINT, heeded)
    assert SweepPaths(tmp_path / "out").report.exists() == (code == 1)
    assert ("run the same command again to continue" in text) == (code == 130)


@pytest.mark.parametrize(("stages", "over"), [(("done", "final"), 0), (("done", "done"), 1)])
def test_what_is_left_is_short_once_every_trial_has_ended(
    stages: tuple[Literal["done", "final"], ...], over: int
) -> None:
    counts = {"done": 1, "running": 0, "stopped": 0, "diverged": 0, "failed": 0, "total": 1}
    studies = [StudyProgress(study="a", stage=stage, best=None, **counts) for stage in stages]
    search: Any = SimpleNamespace(progress=lambda: studies)
    said: list[str] = []
    observer = sweep.Observer(finishing=lambda: said.append("finishing"))
    sweep._progress_callback(search, None, observer)()
    assert len(said) == over
