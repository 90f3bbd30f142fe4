"""The report of a sweep: one self-contained HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.analysis import figures
from orchestrator.analysis.aggregate import by_study, own_rows, searched_values
from orchestrator.analysis.averages import BASELINE
from orchestrator.analysis.benchmark import benchmark
from orchestrator.analysis.plotting import adapter_styles
from orchestrator.analysis.protocols import inflation
from orchestrator.analysis.sensitivity import sensitivities
from orchestrator.analysis.statistics import Interval
from orchestrator.analysis.summary import Comparison, Summary
from orchestrator.analysis.terms import terms
from orchestrator.errors import InvalidInput
from orchestrator.results.throughput import Window, device_use
from orchestrator.spec import TrialResult
from orchestrator.storage.files import write_whole

MAX_LISTED = 40
"""Diverged trials beyond this many are counted, not listed."""
CONTROLS = {code: None for code in range(32) if chr(code) not in "\t\n"}
"""Control characters that HTML does not allow, such as those that colour a terminal."""


@dataclass(frozen=True)
class Extras:
    """What the page says beyond summary and ledger.

    `command` is the command line of the sweep, `registry` the folder of the exported winners (for
    the loading example), `failures` trial key → message of trials that infrastructure prevented,
    `notices` sentences for a box at the top (such as image counts that differ from the benchmark),
    `sheets` task → PNG file of a contact sheet of its train split, `counts` task → split → number
    of images, `windows` the device utilisation of the pools, `misfits` sentences about parts of the
    folder that do not belong together, `left_out` about derived files that cannot be read.
    """

    command: str = ""
    registry: str = "registry"
    failures: Mapping[str, str] = field(default_factory=dict)
    notices: Sequence[str] = ()
    sheets: Mapping[str, bytes] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    windows: Sequence[Window] = ()
    misfits: Sequence[str] = ()
    left_out: Sequence[str] = ()


def write_report(
    out: Path,
    summary: Summary,
    results: Sequence[TrialResult],
    extras: Extras = Extras(),
    paper: Summary | None = None,
) -> Path:
    """Write the page to `out`, whole or not at all, and return `out`.

    Args:
        summary: what `summarise` made of `results`; the page says so if its protocol leaks.
        results: ledger rows, finished or not; may be empty.
        extras: what else the page says.
        paper: the summary of the protocol `paper`, where an honest `summary` has one beside it.

    Equal input gives an equal page. Raises InvalidInput if `out` cannot be written.
    """
    page = render(summary, results, extras, paper)
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
    extras: Extras = Extras(),
    paper: Summary | None = None,
) -> str:
    """The page as text."""
    rows = own_rows(results, summary.sweep, summary.protocol)
    others = own_rows(results, summary.sweep, paper.protocol) if paper else []
    diverged = [
        (row, searched_values(row.trial, summary.sweep))
        for row in (*rows, *others)
        if row.status == "diverged"
    ]
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            **_tables(summary, paper),
            **_figures(summary, rows),
            **vars(extras),
            summary=summary,
            paper=paper,
            sweep=summary.sweep,
            run=summary.run,
            recipe=asdict(summary.sweep.recipe),
            terms=terms(summary.sweep),
            devices=device_use(extras.windows),
            styles=adapter_styles(summary.sweep.adapters),
            tested={
                task.name: extras.counts.get(task.name, {}).get("test", task.test)
                for task in summary.tasks
            },
            diverged=diverged[:MAX_LISTED],
            more_diverged=max(0, len(diverged) - MAX_LISTED),
            example=_example(summary),
        )
    )
    return page.translate(CONTROLS)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        points=points,
        span=span,
        chance=chance,
        duration=duration,
        moment=moment,
        count=count,
        size=size,
        value=plain,
        literal=literal,
        png=png,
    )
    return environment


def _tables(summary: Summary, paper: Summary | None) -> dict[str, Any]:
    incomplete = [study for study in summary.studies if study.missing]
    others = [study for study in paper.studies if study.missing] if paper else []
    return {
        "best": {item.task: item for item in summary.best},
        "versus": {
            (item.adapter, item.task): item
            for item in summary.comparisons
            if item.other == BASELINE and item.question != "tasks like these"
        },
        "pairs": _pairs(summary),
        "leader": _leader(summary),
        "beside": any(study.default.values or study.probabilities for study in summary.studies),
        "incomplete": incomplete,
        "lacking": incomplete + others,
        "lost_seeds": [
            study for one in (summary, paper) if one for study in one.studies if study.diverged
        ],
        "papers": benchmark([summary, paper] if paper else [summary]),
        "inflation": inflation(summary, paper) if paper else None,
    }


def percent(value: float | None, digits: int = 1) -> str:
    """0.9234 → "92.3"; None → a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """A difference of accuracies in points: 0.0123 → "+1.2"; None → a dash."""
    return "–" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}"  # no "-0.0"


def span(interval: Interval | None, signed: bool = False) -> str:
    """An interval in per cent, or `signed` in points: "78.2 to 84.1", "+0.3 to +1.9"."""
    if interval is None:
        return "not defined"
    show = points if signed else percent
    return f"{show(interval.low)} to {show(interval.high)}"


def chance(p: float | None) -> str:
    """A probability: 0.0123 → "0.012", below a thousandth "< 0.001"."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float | None) -> str:
    """A count: 8192 → "8,192"."""
    return "–" if value is None else f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in binary units: "12 MiB", "3.4 GiB"."""
    mebibytes = value / 2**20
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "3 min 20 s", "2 h 05 min"."""
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
    """A hyper-parameter's value: four significant digits, sequences with commas."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def literal(text: str) -> str:
    """A string as it stands in Python source, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def png(content: bytes) -> str:
    """A PNG file as data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _figures(summary: Summary, rows: Sequence[TrialResult]) -> dict[str, Any]:
    grouped = by_study(rows)
    fields = sensitivities(rows, summary.sweep)
    return {
        "pictures": {
            "accuracy": figures.accuracy(summary),
            "ranking": figures.ranking(summary),
            "cost": figures.cost(summary),
            "curves": figures.learning_curves(summary, grouped),
            "sensitivity": [(item, figures.scale_sensitivity(item, summary)) for item in fields],
        },
        "searches": {
            task.name: figures.search_trials(summary, grouped, task.name) for task in summary.tasks
        },
    }


def _pairs(summary: Summary) -> list[tuple[Comparison, Comparison]]:
    """Pairs of adapters over tasks: the answers on these tasks and on tasks like these."""
    asked: dict[str, list[Comparison]] = {"these tasks": [], "tasks like these": []}
    for item in summary.comparisons:
        if item.task is None:
            asked[item.question].append(item)
    return list(zip(asked["these tasks"], asked["tasks like these"], strict=True))


def _leader(summary: Summary) -> Any:
    """The adapter with the highest mean over tasks, among those complete in all of them."""
    complete = [item for item in summary.adapters if item.mean_tasks.mean is not None]
    return max(complete, key=lambda item: item.mean_tasks.mean or 0.0, default=None)


def _example(summary: Summary) -> tuple[str, str] | None:
    """Task and adapter of the loading example: the best of a task, or any, that is exported."""
    exported = [(study.task, study.adapter) for study in summary.studies if not study.missing]
    best = [(item.task, item.adapter) for item in summary.best]
    return next((pair for pair in best + exported if pair in exported), None)
