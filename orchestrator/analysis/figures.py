"""The report's figures: inline SVG each, or None where there is nothing to show.

Accuracies are drawn in per cent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from orchestrator.analysis.aggregate import RowsOfStudies
from orchestrator.analysis.plotting import (
    FAINT,
    INK,
    SOFT,
    AdapterStyle,
    adapter_styles,
    draw,
    field_axis,
    legend,
    panels,
)
from orchestrator.analysis.sensitivity import Sensitivity
from orchestrator.analysis.statistics import Estimate
from orchestrator.analysis.summary import StudySummary, Summary
from orchestrator.spec import TrialResult

WIDTH = 9.4
"""Inches: the width of the page's column."""
COLUMNS = 4
KINDS: dict[str, dict[str, Any]] = {
    "diverged": {"marker": "x", "color": SOFT, "markersize": 5},
    "stopped": {"marker": "o", "markerfacecolor": "white", "alpha": 0.35, "markersize": 5},
    "other": {"marker": "o", "alpha": 0.35, "markersize": 5},
    "not excluded": {"marker": "o", "markersize": 5},
    "winner": {"marker": "*", "markersize": 13, "markeredgecolor": "white", "zorder": 4},
}
"""Markers of each kind of search trial, in drawing order."""


def accuracy(summary: Summary) -> str | None:
    """Test accuracy by task: mean and 95 % interval of each adapter, seeds as small dots."""
    tasks = [
        task.name
        for task in summary.tasks
        if any(study.task == task.name and study.test.values for study in summary.studies)
    ]
    if not tasks:
        return None
    adapters = summary.sweep.adapters
    styles = adapter_styles(adapters)
    step = min(0.2, 0.72 / len(adapters))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, task in enumerate(tasks):
            for index, adapter in enumerate(adapters):
                offset = (index - (len(adapters) - 1) / 2) * step
                _dots(axes, summary.study(task, adapter).test, row + offset, styles[adapter])
        axes.set_yticks(range(len(tasks)), tasks)
        axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
        axes.set_ylim(len(tasks) - 0.45, -0.55)
        for edge in range(1, len(tasks)):
            axes.axhline(edge - 0.5, color=FAINT, linewidth=0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("test accuracy (%)")
        # The interval of two seeds can be many times as wide as what is possible.
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -3), min(high, 103))
        legend(figure, adapters)

    height = 0.75 + len(tasks) * max(0.42, 0.17 * len(adapters))
    return draw("accuracy", "Test accuracy by task and adapter", (WIDTH, height), paint)


def ranking(summary: Summary) -> str | None:
    """Mean ranks on a line, best on the left, and bars over those that are not told apart."""
    found = summary.ranking
    if found is None:
        return None
    styles = adapter_styles(summary.sweep.adapters)
    ordered = sorted(found.ranks.items(), key=lambda item: item[1])
    groups = _untold([rank for _, rank in ordered], found.critical)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (adapter, rank) in enumerate(ordered):
            style = styles[adapter]
            axes.plot(rank, row, style.marker, color=style.colour, markersize=7)
            axes.annotate(
                f"{adapter}  {rank:.2f}", (rank, row), (8, 0), textcoords="offset points",
                va="center", fontsize=8.5, color=INK,
            )  # fmt: skip
        for index, (first, last) in enumerate(groups):
            height = -0.7 - 0.35 * index
            ends = [ordered[first][1] - 0.04, ordered[last][1] + 0.04]
            axes.plot(ends, [height] * 2, color=INK, linewidth=3.5, solid_capstyle="butt")
        axes.set_xlim(0.8, len(ordered) + 0.9)
        axes.set_ylim(len(ordered) - 0.4, -1.0 - 0.35 * len(groups))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"mean rank over {found.tasks} tasks (1 is best)")

    height = 0.9 + 0.24 * len(ordered) + 0.12 * len(groups)
    return draw("ranking", "Mean ranks of the adapters", (WIDTH, height), paint)


def _untold(ordered: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last of each largest run of mean ranks that lie within `critical`."""
    runs: list[tuple[int, int]] = []
    for first, rank in enumerate(ordered):
        last = max(i for i, other in enumerate(ordered) if other - rank < critical)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def cost(summary: Summary) -> str | None:
    """Mean test accuracy over tasks against trainable parameters (without the head)."""
    shown = [
        (item, item.mean_tasks.mean, item.parameters)
        for item in summary.adapters
        if item.mean_tasks.mean is not None and item.parameters is not None
    ]
    if not shown:
        return None
    styles = adapter_styles(summary.sweep.adapters)
    smallest = min((count for _, _, count in shown if count > 0), default=1.0)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for item, mean, count in shown:
            style = styles[item.adapter]
            axes.errorbar(
                count,
                100 * mean,
                yerr=_reach(item.mean_tasks),
                fmt=style.marker,
                color=style.colour,
                markersize=7,
                capsize=0,
                linewidth=1.6,
            )
        axes.set_xscale("symlog", linthresh=smallest / 2, linscale=0.4)
        axes.set_xlim(-smallest / 8, max(count for _, _, count in shown) * 3 + 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
        axes.set_xlabel("trainable parameters without the head (mean of the tasks' winners)")
        axes.set_ylabel("mean test accuracy (%)")
        legend(figure, [item.adapter for item, _, _ in shown])  # names beside the points collide

    return draw("cost", "Mean test accuracy against parameters", (WIDTH, 3.4), paint)


def scale_sensitivity(item: Sensitivity, summary: Summary) -> str | None:
    """`Summary.score` against one field: a panel for each task, then the normalised mean."""
    tasks = [(task, levels) for task, levels in item.tasks.items() if levels]
    style = adapter_styles(summary.sweep.adapters)[item.adapter]
    everywhere = sorted({level.level for _, levels in tasks for level in levels})
    columns = min(COLUMNS, len(tasks) + 1)

    def paint(figure: Figure) -> None:
        *cells, last = panels(figure, len(tasks) + 1, columns, f"{summary.score} (%)")
        for axes, (task, levels) in zip(cells, tasks, strict=True):
            points = [(one.level, 100 * one.accuracy) for one in levels]
            axes.plot(*zip(*points, strict=True), color=style.colour, linewidth=1.6)
            for one, point in zip(levels, points, strict=True):
                inside = "white" if one.ended_early else style.colour
                mark: Any = {"color": style.colour, "markerfacecolor": inside, "markersize": 5}
                axes.plot(*point, style.marker, **mark)
            axes.set_title(task)
        _normalised(last, item)
        for axes in (*cells, last):
            field_axis(axes, everywhere, item.logarithmic)
            axes.set_xlabel(item.field)

    height = 0.3 + 2.1 * -(-(len(tasks) + 1) // columns)
    name = f"sensitivity-{item.adapter}-{item.field}"
    label = f"{summary.score.capitalize()} of {item.adapter} against {item.field}"
    return draw(name, label, (WIDTH, height), paint)


def search_trials(summary: Summary, rows: RowsOfStudies, task: str) -> str | None:
    """`Summary.score` (%) of all search trials of a task, a panel for each adapter that searched.

    The x axis is the order in which trials ended. Stopped trials are hollow (accuracy at their last
    rung), diverged ones crosses at the bottom. Configurations that the comparison with the winner
    does not exclude are in full colour, the others pale. None if no adapter searched more than one
    configuration.
    """
    shown = [study for study in summary.studies if study.task == task and study.configurations > 1]
    if not shown:
        return None
    styles = adapter_styles(summary.sweep.adapters)
    columns = min(COLUMNS, max(len(shown), 2))

    def paint(figure: Figure) -> None:
        cells = panels(figure, len(shown), columns, f"{summary.score} (%)")
        for axes, study in zip(cells, shown, strict=True):
            own = rows[task, study.adapter]
            searched = [row for row in own if row.trial.stage == "search"]
            _search_panel(axes, study, searched, styles[study.adapter])

    height = 0.3 + 2.1 * -(-len(shown) // columns)
    return draw(f"search-{task}", f"Search trials of {task}", (WIDTH, height), paint)


def regret(name: str, curves: Mapping[str, Sequence[tuple[float, Estimate]]]) -> str:
    """Mean regret, in points, of each policy against the share of the space that was tried, with
    the interval over repetitions.
    """

    def paint(figure: Figure) -> None:
        (axes,) = panels(figure, 1, 1, f"{name}, points")
        axes.set_xlabel("share of the configurations tried, %")
        styles = adapter_styles([*curves])
        for policy, points in curves.items():
            style = styles[policy]
            shares = [100 * share for share, _ in points]
            axes.plot(
                shares,
                [100 * (one.mean or 0.0) for _, one in points],
                color=style.colour,
                marker=style.marker,
                ms=4,
                label=policy,
            )
            known = [
                (x, one.interval)
                for x, (_, one) in zip(shares, points, strict=True)
                if one.interval
            ]
            axes.fill_between(
                [x for x, _ in known],
                [100 * one.low for _, one in known],
                [100 * one.high for _, one in known],
                color=style.colour,
                alpha=0.15,
                lw=0,
            )
        axes.set_ylim(bottom=0)
        axes.legend()

    return draw(f"regret {name}", f"{name} against the share of configurations", (7, 3.6), paint)


def learning_curves(summary: Summary, rows: RowsOfStudies) -> str | None:
    """Accuracy of every winner by epoch, on the split it was chosen on.

    The mean over its replicate trials, or its search trial where nothing was replicated.
    """
    curves = {
        (study.task, study.adapter): _curve(study, rows[study.task, study.adapter])
        for study in summary.studies
    }
    tasks = [
        task.name
        for task in summary.tasks
        if any(len(curves[task.name, name]) > 1 for name in summary.sweep.adapters)
    ]
    if not tasks:
        return None
    styles = adapter_styles(summary.sweep.adapters)
    columns = min(COLUMNS, max(len(tasks), 3))

    def paint(figure: Figure) -> None:
        cells = panels(figure, len(tasks), columns, f"{summary.chosen_on} accuracy (%)")
        for axes, task in zip(cells, tasks, strict=True):
            for name in summary.sweep.adapters:
                points = curves[task, name]
                xs, ys = [epoch for epoch, _ in points], [100 * value for _, value in points]
                axes.plot(xs, ys, color=styles[name].colour, linewidth=1.6)
            axes.set_title(task)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend(figure, summary.sweep.adapters)

    height = 0.6 + 2.0 * -(-len(tasks) // columns)
    return draw("curves", "Learning curves of the winners", (WIDTH, height), paint)


def _reach(found: Estimate) -> Any:
    """From the mean down and up to the ends of its interval, in per cent."""
    if found.interval is None or found.mean is None:
        return 0.0
    return [[100 * (found.mean - found.interval.low)], [100 * (found.interval.high - found.mean)]]


def _dots(axes: Axes, values: Estimate, y: float, style: AdapterStyle) -> None:
    """One adapter on one task: interval, seeds, mean."""
    if values.mean is None:
        return
    if values.interval:
        ends = (100 * values.interval.low, 100 * values.interval.high)
        axes.plot(ends, (y, y), color=style.colour, linewidth=2, alpha=0.55, solid_capstyle="round")
    seeds = [100 * value for value in values.values]
    axes.plot(seeds, [y] * len(seeds), ".", color=INK, markersize=3, alpha=0.6, zorder=4)
    axes.plot(
        100 * values.mean,
        y,
        style.marker,
        color=style.colour,
        markersize=6.5,
        markeredgecolor="white",
        markeredgewidth=0.8,
        zorder=3,
    )


def _normalised(axes: Axes, item: Sensitivity) -> None:
    xs = [one.level for one in item.normalised]
    ys = [one.score for one in item.normalised]
    axes.plot(xs, ys, color=INK, linewidth=2, marker="o", markersize=5)
    axes.set_title("normalised, mean of tasks")
    axes.set_ylabel("")
    axes.set_ylim(-0.06, 1.12)
    if item.recommended is not None:
        axes.axvline(item.recommended, color=SOFT, linewidth=1, linestyle=(0, (3, 3)), zorder=1)


def _curve(study: StudySummary, rows: Sequence[TrialResult]) -> list[tuple[int, float]]:
    """(epoch, mean accuracy) of the study's winner, over the trials that it was chosen by."""
    if study.winner is None:
        return []
    own = [
        row for row in rows if row.status == "finished" and row.trial.config == study.winner.config
    ]
    replicates = [row for row in own if row.trial.stage == "replicate"]
    chosen = replicates or [row for row in own if row.trial.stage == "search"]
    found: dict[int, list[float]] = {}
    for row in chosen:
        for point in row.curve:
            if point.eval_accuracy is not None:
                found.setdefault(point.epoch, []).append(point.eval_accuracy)
    return [(epoch, fmean(values)) for epoch, values in sorted(found.items())]


def _search_panel(
    axes: Axes, study: StudySummary, rows: Sequence[TrialResult], style: AdapterStyle
) -> None:
    kept = {item.config for item in study.not_excluded}
    winner = study.winner.config if study.winner else ""
    values = [100 * row.value for row in rows if row.value is not None]
    floor = min(values, default=0.0)
    points: dict[str, list[tuple[int, float]]] = {kind: [] for kind in KINDS}
    for number, row in enumerate(rows, 1):
        kind = _kind(row, winner, kept)
        points[kind].append((number, floor if row.value is None else 100 * row.value))
    for kind, marks in KINDS.items():
        if points[kind]:
            xs, ys = zip(*points[kind], strict=True)
            axes.plot(xs, ys, linestyle="", **{"color": style.colour, **marks})
    axes.set_title(study.adapter)
    axes.set_xlabel("trial, by end")
    axes.set_xlim(0.2, len(rows) + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _kind(row: TrialResult, winner: str, kept: Collection[str]) -> str:
    if row.status != "finished":
        return row.status
    if row.trial.config == winner:
        return "winner"
    return "not excluded" if row.trial.config in kept else "other"
