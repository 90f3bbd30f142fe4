"""Ledger rows as plain run records (tags, params, measures). Nothing here imports MLflow."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.results.selection import winner
from orchestrator.results.sweep_file import SweepFile
from orchestrator.results.throughput import Window, by_pool
from orchestrator.spec import RECIPE_FIELDS, TrialResult, digest
from orchestrator.storage.addresses import redacted

NOTE = "mlflow.note.content"
SYSTEM = "system/"
"""The prefix of MLflow's system metrics."""
LONGEST = 4000
"""Characters of a tag or param; every MLflow store takes at least a few more."""


@dataclass(frozen=True)
class Measure:
    """One point of one metric: `step` counts epochs (or trials); `time` is Unix milliseconds."""

    name: str
    value: float
    step: int
    time: int


@dataclass(frozen=True)
class RunRecord:
    """The content of an MLflow run: `key` identifies it in its sweep, `version` its content.

    Times are Unix milliseconds.
    """

    key: str
    name: str
    tags: Mapping[str, str]
    start: int
    end: int = 0
    version: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    measures: Sequence[Measure] = ()
    status: str = "FINISHED"


def trial_record(result: TrialResult) -> RunRecord:
    """The run of one trial. Equal results give equal records, times included, so that a record
    written twice has every point once.
    """
    trial = result.trial
    return RunRecord(
        key=result.key,
        name=f"{trial.study} {trial.stage} seed {trial.seed} {trial.config[:6]}",
        version=digest([result.status, result.value, result.epochs_run, result.finished])[:16],
        tags=_trial_tags(result),
        params=_params(result),
        measures=tuple(_trial_measures(result)),
        start=milliseconds(result.started),
        end=milliseconds(result.finished),
        status="FAILED" if result.status == "diverged" else "FINISHED",
    )


def study_record(result: TrialResult) -> RunRecord:
    """The parent run of all trials of the study of `result`."""
    trial = result.trial
    note = f"All trials of {trial.adapter} on {trial.task} with backbone {trial.backbone}."
    if trial.leaks:
        note += " LEAKS: as in the published scripts, choices were made on the test split."
    return RunRecord(
        key=study_key(trial.study),
        name=trial.study,
        tags={"kind": "study", **_values(trial, _STUDY_TAGS), NOTE: note},
        start=milliseconds(result.started),
    )


def sweep_record(file: SweepFile, start: float) -> RunRecord:
    """The parent run of all studies of a sweep that began at Unix time `start` (seconds)."""
    sweep = file.sweep
    note = (
        f"Sweep of {', '.join(sweep.adapters)} over {', '.join(sweep.tasks)} (suite {sweep.suite}, "
        f"backbone {sweep.backbone}): `{file.command}`"
    )
    tags = {"kind": "sweep", "command": file.command, **_values(sweep, _SWEEP_TAGS), NOTE: note}
    return RunRecord(
        key="sweep",
        name=f"{sweep.suite} {file.id[:8]}",
        tags={name: redacted(_text(value)) for name, value in tags.items()},
        start=milliseconds(start),
    )


def study_key(name: str) -> str:
    """The key of a study's run; it differs from every trial's, which is 32 hexadecimal digits."""
    return f"study:{name}"


def study_summary(rows: Iterable[TrialResult]) -> dict[str, float]:
    """Counts, best full-length validation accuracy and the winner's mean test accuracy so far."""
    rows = list(rows)
    full = [row for row in rows if row.status == "finished" and row.value is not None]
    summary, best = sweep_summary(rows), winner(rows)
    for stage_final, what in ((False, "best_accuracy"), (True, "mean_accuracy")):
        own = [
            row
            for row in full
            if (row.trial.stage == "final") == stage_final
            and (row.trial.config == best or not stage_final)
        ]
        values = [row.value or 0.0 for row in own]
        if values:
            value = statistics.fmean(values) if stage_final else max(values)
            summary[f"{_split(own[0])}/{what}"] = value
    return summary


def sweep_summary(rows: Iterable[TrialResult]) -> dict[str, float]:
    """Numbers of trials, in all and by status, and their device seconds."""
    rows = list(rows)
    counts = {f"trials/{status}": 0.0 for status in ("finished", "stopped", "diverged")}
    for row in rows:
        counts[f"trials/{row.status}"] += 1
    seconds = sum(row.seconds for row in sorted(rows, key=lambda row: row.key))
    return {"trials": float(len(rows)), **counts, "seconds": seconds}


def system_measures(windows: Iterable[Window]) -> list[Measure]:
    """Device utilisation of the pools as MLflow's system metrics; steps count windows."""
    measures = []
    for pool, own in by_pool(windows).items():
        name = re.sub(r"[^\w. /-]", "-", f"{SYSTEM}{pool}")
        for step, window in enumerate(own):
            now = milliseconds(window.time)
            values = {
                "images_per_second": window.images_per_second,
                "width": float(window.width),
                "memory_megabytes": window.memory / 1e6,
                "share_of_roofline": window.share,
            }
            measures += [Measure(f"{name}/{what}", v, step, now) for what, v in values.items()]
    return measures


def milliseconds(seconds: float) -> int:
    """Unix seconds as MLflow's integer milliseconds."""
    return round(seconds * 1000)


_SWEEP_TAGS = (
    *("suite", "backbone", "protocols", "sampler", "stopping", "trials", "seeds", "replicate"),
    *("splits", "seed"),
)
_STUDY_TAGS = ("suite", "task", "adapter", "backbone", "protocol")
_TRIAL_TAGS = (*_STUDY_TAGS, "seed", "stage", "config")
_RESULT_TAGS = ("key", "status", "stopping", "host", "device", "code", "message")


def _values(record: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _trial_tags(result: TrialResult) -> dict[str, str]:
    trial, value = result.trial, "no accuracy"
    if result.value is not None:
        value = f"{_split(result)} accuracy {result.value:.4f}"
    note = (
        f"{trial.adapter} on {trial.task} ({trial.stage}, seed {trial.seed}): {value} "
        f"at epoch {result.epochs_run}, {result.status}."
    )
    about = _values(trial, _TRIAL_TAGS) | _values(result, _RESULT_TAGS)
    tags = {"kind": "trial", **about, NOTE: note}
    return {name: _text(value) for name, value in tags.items() if value != ""}


def _params(result: TrialResult) -> dict[str, str]:
    """Adapter and recipe fields under their own names, for MLflow's comparison of runs."""
    recipe = {**asdict(result.trial.recipe), "precision": result.trial.precision}
    mine = {
        f"adapter.{name}" if name in RECIPE_FIELDS else name: value
        for name, value in result.trial.params.items()
    }
    return {name: _text(value) for name, value in {**mine, **recipe}.items()}


def _trial_measures(result: TrialResult) -> Iterator[Measure]:
    split, last = _split(result), result.epochs_run
    span = max(0.0, result.finished - result.started)
    for point in result.curve:
        part = min(1.0, point.epoch / last) if last else 1.0
        time = milliseconds(result.started + span * part)
        curve = {
            "train/loss": point.loss,
            "lr": point.lr,
            f"{split}/loss": point.eval_loss,
            f"{split}/accuracy": point.eval_accuracy,
        }
        for name, value in curve.items():
            if value is not None:
                yield Measure(name, value, point.epoch, time)
    end = milliseconds(result.finished)
    if result.value is not None:
        yield Measure("value", result.value, last, end)
    yield Measure("epochs", last, last, end)
    yield Measure("seconds", result.seconds, last, end)
    yield Measure("parameters", result.parameters, last, end)


def _split(result: TrialResult) -> str:
    """The prefix of metrics: the split that was read; `leaking_test` where choices used it."""
    if result.trial.leaks:
        return "leaking_test"
    return "test" if result.trial.reads_test else "val"


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:LONGEST]
