"""What a row of the ledger may say, whatever its seal says of it: a seal shows that a row is as it
was written, not that what was written is possible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from orchestrator.spec import PROTOCOLS, STAGES, STATUSES, Point, TrialResult

_FIRST, _LAST = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2020, 2100))
_CLOCK_STEP = 60.0
"""Seconds by which a clock may be set back during a trial."""
_LARGEST_LOSS = 1e40
"""Beyond every 32-bit number."""


def problems(result: TrialResult) -> list[str]:
    """Everything that a row cannot say: field, value and what is allowed; empty for a sound row."""
    return [
        f"{name} is {value!r:.120}; allowed: {allowed}"
        for found in (_of_trial, _of_outcome, _of_curve)
        for name, value, ok, allowed in found(result)
        if not ok
    ]


_Checks = Iterator[tuple[str, Any, bool, str]]
"""Field, value, whether it is allowed, what is allowed."""


def _of_trial(result: TrialResult) -> _Checks:
    trial = result.trial
    for name in ("suite", "task", "backbone", "adapter", "data", "weights"):
        value = getattr(trial, name)
        yield name, value, isinstance(value, str) and value != "", "a name"
    yield "stage", trial.stage, trial.stage in STAGES, ", ".join(STAGES)
    yield "protocol", trial.protocol, trial.protocol in PROTOCOLS, ", ".join(PROTOCOLS)
    yield "params", trial.params, isinstance(trial.params, dict), "fields with values"
    for name, value in (("versions", result.versions), ("files", result.files)):
        texts = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        yield name, value, texts, "names with texts"
    for name in ("stopping", "message", "host", "device", "code"):
        value = getattr(result, name)
        yield name, value, isinstance(value, str), "a text"


def _of_outcome(result: TrialResult) -> _Checks:
    epochs, status, value = result.trial.recipe.epochs, result.status, result.value
    yield "status", status, status in STATUSES, ", ".join(STATUSES)
    for name, number in (
        *((name, getattr(result, name)) for name in ("parameters", "test_reads")),
        ("seed", result.trial.seed),
    ):
        yield name, number, _is_count(number, 2**63), "a count"
    run = result.epochs_run
    yield "epochs_run", run, _is_count(run, epochs), f"0 to {epochs}, as planned"
    if status == "diverged":
        yield "value", value, value is None, "none, for the trial diverged"
    else:
        yield "value", value, _is_share(value), "an accuracy from 0 to 1"
    if status == "finished":
        yield "epochs_run", run, run == epochs, f"{epochs}, for the trial finished"
    yield "eval_loss", result.eval_loss, _is_loss(result.eval_loss), "0 or more"
    right = result.correct
    binary = isinstance(right, bytes) and set(right) <= {0, 1}
    yield "correct", right, binary, "one byte of 0 or 1 per image"
    if binary and right and _is_share(value):
        share = sum(right) / len(right)
        yield "value", value, abs(share - (value or 0.0)) < 1e-4, f"{share:.4f}, by its images"
    seconds = result.seconds
    yield "seconds", seconds, _is_number(seconds) and 0 <= seconds < _LAST, "0 or more"
    for name in ("started", "finished"):
        moment = getattr(result, name)
        allowed = "a Unix time from 2020 to 2100 (is the clock of its host right?)"
        yield name, moment, _is_number(moment) and _FIRST <= moment < _LAST, allowed
    if _is_number(result.started) and _is_number(result.finished):
        ordered = result.finished >= result.started - _CLOCK_STEP
        yield "finished", result.finished, ordered, f"not before it started ({result.started!r})"


def _of_curve(result: TrialResult) -> _Checks:
    before, epochs = 0, result.trial.recipe.epochs
    for point in result.curve:
        if not _is_sound(point, before, epochs):
            allowed = f"epochs that rise to {epochs}, losses of 0 or more, accuracies from 0 to 1"
            yield "its curve has a point that", vars(point), False, allowed
            return
        before = point.epoch


def _is_sound(point: Point, before: int, epochs: int) -> bool:
    """For a ledger of 10,000 rows this is called a million times."""
    try:
        accuracy = point.eval_accuracy
        return (
            before < point.epoch <= epochs
            and 0 <= point.lr < 1e3
            # Of a trial that diverges, NaN or infinite.
            and (0 <= point.loss <= _LARGEST_LOSS or not math.isfinite(point.loss))
            and (accuracy is None or 0 <= accuracy <= 1)
            and _is_loss(point.eval_loss)
        )
    except TypeError:  # something is None
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and 0 <= value <= most


def _is_share(value: float | None) -> bool:
    return value is not None and 0 <= value <= 1


def _is_loss(value: float | None) -> bool:
    """None where it was not measured; NaN and infinity are those of a model that overflowed."""
    return value is None or 0 <= value <= _LARGEST_LOSS or not math.isfinite(value)
