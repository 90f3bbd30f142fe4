"""The report: one self-contained HTML page (no request leaves it) of what a sweep found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orchestrator.analysis import figures
from orchestrator.analysis.aggregate import RowsOfStudies, by_study, own_rows, searched_values
from orchestrator.analysis.plotting import looks
from orchestrator.analysis.search_figure import search_picture
from orchestrator.analysis.sensitivity import sensitivities
from orchestrator.analysis.summary import Summary
from orchestrator.errors import InvalidInput
from orchestrator.files import write_whole
from orchestrator.spec import TrialResult

MAX_LISTED = 40
"""Diverged trials beyond this many are counted, not listed."""
CONTROLS = {code: None for code in range(32) if chr(code) not in "\t\n"}
"""Characters that HTML does not allow, such as the escapes that colour a terminal."""


def write_report(
    out: Path,
    summary: Summary,
    results: Sequence[TrialResult],
    *,
    command: str = "",
    registry: str = "registry",
    failures: Mapping[str, str] | None = None,
) -> Path:
    """Write the page to `out`, whole or not at all, and return `out`.

    Args:
        summary: what `summarise` made of `results`.
        results: ledger rows; finished or not, none is fine.
        command: the command line that made them, shown as given.
        registry: folder of the exported winners, for the loading example.
        failures: trial key → message of trials that infrastructure kept from running.

    Equal input gives an equal page. Raises InvalidInput if `out` cannot be written.
    """
    page = render(summary, results, command=command, registry=registry, failures=failures or {})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A command line may hold bytes that are no text (lone surrogates).
        write_whole(out, page.encode(errors="replace"))
    except OSError as error:
        raise InvalidInput(
            f"the report cannot be written to '{out}': {error.strerror}. "
            "Give a folder that you may write to."
        ) from error
    return out


def render(
    summary: Summary,
    results: Sequence[TrialResult],
    *,
    command: str,
    registry: str,
    failures: Mapping[str, str],
) -> str:
    """The page as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=percent, duration=duration, moment=moment, count=count, value=plain, literal=literal
    )
    source = files("orchestrator.analysis").joinpath("report.html.j2").read_text("utf-8")
    rows = own_rows(results, summary.sweep)
    grouped = by_study(rows)
    diverged = _diverged(summary, rows)
    page = environment.from_string(source).render(
        summary=summary,
        sweep=summary.sweep,
        run=summary.run,
        recipe=asdict(summary.sweep.recipe),
        looks=looks(summary.sweep.adapters),
        best={item.task: item for item in summary.best},
        versus={(item.adapter, item.task): item for item in summary.comparisons},
        leader=_leader(summary),
        incomplete=[study for study in summary.studies if study.missing],
        pictures=_pictures(summary, rows, grouped),
        searches={
            task.name: _markup(search_picture(summary, grouped, task.name))
            for task in summary.tasks
        },
        diverged=diverged[:MAX_LISTED],
        more_diverged=max(0, len(diverged) - MAX_LISTED),
        failures=failures,
        command=command,
        registry=registry,
        example=_example(summary),
    )
    return page.translate(CONTROLS)


def percent(value: float | None, digits: int = 1) -> str:
    """0.9234 → "92.3"; None → a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def count(value: float | None) -> str:
    """Numbers of things: 8192 → "8,192"."""
    return "–" if value is None else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 20 s", "2 h 05 min"."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def moment(seconds: float) -> str:
    """A Unix time in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def plain(value: Any) -> str:
    """A hyper-parameter as a person writes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def literal(text: str) -> str:
    """A string as it stands in Python source, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _pictures(
    summary: Summary, rows: Sequence[TrialResult], grouped: RowsOfStudies
) -> dict[str, Any]:
    fields = sensitivities(rows, summary.sweep)
    return {
        "accuracy": _markup(figures.accuracy(summary)),
        "cost": _markup(figures.cost(summary)),
        "curves": _markup(figures.learning_curves(summary, grouped)),
        "sensitivity": [
            (item, _markup(figures.scale_sensitivity(item, summary))) for item in fields
        ],
    }


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)  # Our own SVG; its text is escaped.


def _leader(summary: Summary) -> Any:
    """The adapter with the best mean over tasks, among those that have all of them."""
    complete = [item for item in summary.adapters if item.mean_tasks.mean is not None]
    return max(complete, key=lambda item: item.mean_tasks.mean or 0.0, default=None)


def _example(summary: Summary) -> tuple[str, str] | None:
    """Task and adapter of the loading example: a task's best, or any, that was exported."""
    exported = [(study.task, study.adapter) for study in summary.studies if not study.missing]
    best = [(item.task, item.adapter) for item in summary.best]
    return next((pair for pair in best + exported if pair in exported), None)


def _diverged(summary: Summary, rows: Sequence[TrialResult]) -> list[dict[str, Any]]:
    return [
        {
            "study": row.trial.study,
            "stage": row.trial.stage,
            "seed": row.trial.seed,
            "epoch": row.epochs_run,
            "searched": searched_values(row.trial, summary.sweep),
            "message": row.message,
        }
        for row in rows
        if row.status == "diverged"
    ]
