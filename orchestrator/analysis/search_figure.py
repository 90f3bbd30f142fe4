"""The picture of a search: every trial of a task's studies, and how far the winner stands out."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.analysis.aggregate import RowsOfStudies
from orchestrator.analysis.figures import WIDTH
from orchestrator.analysis.plotting import SOFT, Look, draw, looks, only_horizontal, panels
from orchestrator.analysis.summary import StudySummary, Summary
from orchestrator.spec import TrialResult

COLUMNS = 4
KINDS: dict[str, dict[str, Any]] = {
    "diverged": {"marker": "x", "color": SOFT, "markersize": 5},
    "stopped": {"marker": "o", "markerfacecolor": "white", "alpha": 0.35, "markersize": 5},
    "other": {"marker": "o", "alpha": 0.35, "markersize": 5},
    "alike": {"marker": "o", "markersize": 5},
    "winner": {"marker": "*", "markersize": 13, "markeredgecolor": "white", "zorder": 4},
}
"""How each kind of trial is drawn, later ones over earlier ones."""

Rows = Sequence[TrialResult]


def search_picture(summary: Summary, rows: RowsOfStudies, task: str) -> str | None:
    """`Summary.score` (%) of all search trials of one task, a panel for each adapter that searched.

    Order along x is the order in which trials ended. Stopped trials are hollow (their accuracy is
    that of their last rung), diverged ones crosses at the bottom. The band is the winner's accuracy
    ± one binomial standard error; configurations that the paired test cannot tell from it are in
    full colour, the others pale. None if no adapter searched more than one configuration.
    """
    shown = [study for study in summary.studies if study.task == task and study.configurations > 1]
    if not shown:
        return None
    style = looks(summary.sweep.adapters)
    columns = min(COLUMNS, max(len(shown), 2))

    def paint(figure: Figure) -> None:
        cells = panels(figure, len(shown), columns)
        for axes, study in zip(cells, shown, strict=True):
            own = rows[task, study.adapter]
            searched = [row for row in own if row.trial.stage == "search"]
            _panel(axes, study, searched, style[study.adapter])
            axes.set_ylabel(f"{summary.score} (%)" if axes in cells[::columns] else "")

    height = 0.3 + 2.1 * -(-len(shown) // columns)
    return draw(f"search-{task}", f"Search trials of {task}", (WIDTH, height), paint)


def _panel(axes: Axes, study: StudySummary, rows: Rows, look: Look) -> None:
    alike = {item.config for item in study.indistinguishable}
    winner = study.winner.config if study.winner else ""
    values = [100 * row.value for row in rows if row.value is not None]
    floor = min(values, default=0.0)
    places: dict[str, list[tuple[int, float]]] = {kind: [] for kind in KINDS}
    for place, row in enumerate(rows, 1):
        kind = _kind(row, winner, alike)
        places[kind].append((place, floor if row.value is None else 100 * row.value))
        if kind == "winner":
            _band(axes, row, look)
    for kind, style in KINDS.items():
        if places[kind]:
            xs, ys = zip(*places[kind], strict=True)
            axes.plot(xs, ys, linestyle="", **{"color": look.colour, **style})
    axes.set_title(study.adapter)
    axes.set_xlabel("trial, by end")
    axes.set_xlim(0.2, len(rows) + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    only_horizontal(axes)


def _kind(row: TrialResult, winner: str, alike: Collection[str]) -> str:
    if row.status != "finished":
        return row.status
    if row.trial.config == winner:
        return "winner"
    return "alike" if row.trial.config in alike else "other"


def _band(axes: Axes, row: TrialResult, look: Look) -> None:
    """± √(p(1-p)/n) around the winner, n the val images it was measured on."""
    value = row.value or 0.0
    error = math.sqrt(value * (1 - value) / max(len(row.correct), 1))
    axes.axhspan(100 * (value - error), 100 * (value + error), color=look.colour, alpha=0.12, lw=0)
