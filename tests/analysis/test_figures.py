from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.analysis import figures
from orchestrator.analysis.aggregate import by_study, own_rows, summarise
from orchestrator.analysis.plotting import BASELINE_COLOUR, adapter_styles, draw
from orchestrator.analysis.sensitivity import sensitivities
from orchestrator.analysis.summary import Summary
from orchestrator.spec import TrialResult
from tests.analysis.synthetic import SUITE, SWEEP, interrupted, result, sweep_results, trial

DIGITS = replace(SWEEP, tasks=("digits",))


@pytest.fixture(scope="module")
def rows() -> list[TrialResult]:
    return own_rows(sweep_results(), SWEEP)


@pytest.fixture(scope="module")
def full(rows: list[TrialResult]) -> Summary:
    return summarise(rows, SWEEP, SUITE)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were painted, kept before they become text."""
    kept: list[Figure] = []

    def keep(name: str, label: str, size: tuple[float, float], paint: Any) -> str:
        kept.append(Figure(figsize=size))
        paint(kept[-1])
        return f"{name}: {label}"

    monkeypatch.setattr(figures, "draw", keep)
    return kept


def texts(svg: str) -> list[str]:
    """What an inline SVG says; it must be well-formed XML."""
    tree = ElementTree.fromstring(svg)
    return ["".join(e.itertext()) for e in tree.iter() if e.tag.endswith("text")]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title("left") or axes.get_title() for axes in figure.axes if axes.axison]


def panel(figure: Figure, title: str) -> Axes:
    (found,) = [a for a in figure.axes if title in (a.get_title("left"), a.get_title())]
    return found


def along(line: Line2D) -> tuple[list[float], list[float]]:
    """The x and the y values of a line."""
    xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    return xs.tolist(), ys.tolist()


def points(axes: Axes, marker: str) -> list[tuple[float, float]]:
    """Coordinates drawn with that marker, left to right."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return sorted(pair for line in lines for pair in zip(*along(line), strict=True))


def test_every_figure_is_xml_with_its_names_and_no_outside_reference(
    full: Summary, rows: Sequence[TrialResult]
) -> None:
    grouped = by_study(rows)
    sensitivity = sensitivities(rows, SWEEP)[0]
    found = {
        "accuracy": figures.accuracy(full),
        "cost": figures.cost(full),
        "curves": figures.learning_curves(full, grouped),
        "scale": figures.scale_sensitivity(sensitivity, full),
        "search": figures.search_trials(full, grouped, "digits"),
    }
    words = {}
    for name, svg in found.items():
        assert svg is not None
        words[name] = texts(svg)
        assert not re.findall(r'href="(?!#)', svg), name
        assert "<!DOCTYPE" not in svg and "<metadata" not in svg
    assert {*SWEEP.tasks, *SWEEP.adapters, "test accuracy (%)"} <= {*words["accuracy"]}
    assert {*SWEEP.adapters, "mean test accuracy (%)"} <= {*words["cost"]}
    assert {*SWEEP.tasks, *SWEEP.adapters, "epoch"} <= {*words["curves"]}
    assert {*SWEEP.tasks, "scale", "0.1", "10", "normalised, mean of tasks"} <= {*words["scale"]}
    assert {"lora", "efft2", "trial, by end"} <= {*words["search"]}
    assert "linear" not in words["search"], "it has nothing to search"


def test_means_seeds_and_intervals_are_where_they_belong(
    full: Summary, drawn: list[Figure]
) -> None:
    figures.accuracy(full)
    (axes,) = drawn[0].axes
    estimates = [study.test for study in full.studies]
    seeds = sorted(x for x, _ in points(axes, "."))
    assert seeds == pytest.approx(sorted(100 * v for one in estimates for v in one.values))
    means = [x for mark in "osD" for x, _ in points(axes, mark)]
    assert sorted(means) == pytest.approx(sorted(100 * (one.mean or 0) for one in estimates))
    ends = [one.interval for one in estimates if one.interval]
    bars = [x for x, _ in points(axes, "None") if x > 1]  # The rules between tasks run 0…1.
    assert bars == pytest.approx(sorted(100 * x for one in ends for x in (one.low, one.high)))


def test_an_interrupted_sweep_shows_what_there_is(
    rows: Sequence[TrialResult], drawn: list[Figure]
) -> None:
    part = summarise(interrupted(rows), SWEEP, SUITE)
    assert figures.cost(part) is None, "no adapter has all its tasks"
    figures.accuracy(part)
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(SWEEP.tasks)
    assert len(points(axes, ".")) == 3 * 3 + 3 * 1 + 2 * 3


def test_cost_shows_parameters_against_the_mean(full: Summary, drawn: list[Figure]) -> None:
    figures.cost(full)
    (axes,) = drawn[0].axes
    shown = [xy for mark in "osD" for xy in points(axes, mark)]
    expected = [(item.parameters or 0, 100 * (item.mean_tasks.mean or 0)) for item in full.adapters]
    assert np.allclose(sorted(shown), sorted(expected))
    left, right = axes.get_xlim()
    assert left < 0 and right > 8192, "no adapter lies on the edge, linear has no parameters"


def test_sensitivity_has_a_panel_for_each_measured_task(
    full: Summary, rows: Sequence[TrialResult], drawn: list[Figure]
) -> None:
    for item in sensitivities(rows, SWEEP):
        figures.scale_sensitivity(item, full)
        assert titles(drawn[-1]) == [*SWEEP.tasks, "normalised, mean of tasks"]
        levels = item.tasks["digits"]
        line = panel(drawn[-1], "digits").get_lines()[0]
        xs, ys = along(line)
        assert xs == [one.level for one in levels]
        assert ys == pytest.approx([100 * one.accuracy for one in levels])
        last = panel(drawn[-1], "normalised, mean of tasks")
        assert points(last, "o") == [(one.level, one.score) for one in item.normalised]
        assert last.get_xscale() == ("log" if item.logarithmic else "linear")


def test_a_level_that_only_stopped_trials_reached_is_hollow(drawn: list[Figure]) -> None:
    sweep = replace(DIGITS, adapters=("lora",))
    found = [
        result(trial(params={"scale": 0.1, "rank": 2}), 0.5),
        result(trial(params={"scale": 1.0, "rank": 2}), 0.4, status="stopped"),
    ]
    (item,) = sensitivities(found, sweep)
    figures.scale_sensitivity(item, summarise(found, sweep, SUITE))
    marks = [line for line in panel(drawn[0], "digits").get_lines() if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, True]


def test_the_search_trials_places_every_trial(
    full: Summary, rows: Sequence[TrialResult], drawn: list[Figure]
) -> None:
    figures.search_trials(full, by_study(rows), "digits")
    study = full.study("digits", "efft2")
    axes = panel(drawn[0], "efft2")
    own = [r for r in rows if r.trial.study == study.name and r.trial.stage == "search"]
    values = {place: row.value for place, row in enumerate(own, 1)}
    crosses, dots, stars = (points(axes, mark) for mark in "xo*")
    assert [x for x, _ in crosses] == [place for place, value in values.items() if value is None]
    for place, height in dots + stars:
        assert height == pytest.approx(100 * (values[int(place)] or 0))
    assert len(crosses) + len(dots) + len(stars) == len(own)
    ((_, top),) = stars
    assert study.winner is not None and top == pytest.approx(100 * (study.winner.search_value or 0))
    full_colour = [
        len(along(line)[0])
        for line in axes.get_lines()
        if line.get_marker() == "o" and line.get_alpha() is None
    ]
    assert sum(full_colour) == len(study.not_excluded)


def test_learning_curves_average_the_replicates_of_the_winner(
    full: Summary, rows: Sequence[TrialResult], drawn: list[Figure]
) -> None:
    figures.learning_curves(full, by_study(rows))
    lines = panel(drawn[0], "digits").get_lines()
    assert [along(line)[0] for line in lines] == [list(range(1, 11))] * 3
    study = full.study("digits", "lora")
    assert along(lines[1])[1][-1] == pytest.approx(100 * (study.val.mean or 0))


def test_any_text_is_drawn_as_it_stands_and_without_warnings(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A formula that is none, markup, what looks like an id, letters that the font lacks."""
    hostile = '$\\frac{$ <b> & id="x" href="#y" 界'

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_title(hostile)
        axes.plot([1, 2], [3, 4], label=hostile)
        figure.legend(loc="outside upper left")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw('"><script>\\1', '"><script>', (3, 2), paint)
    assert texts(svg).count(hostile) == 2
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).attrib["aria-label"] == '"><script>'
    assert capfd.readouterr() == ("", "")


def test_an_adapter_looks_the_same_whatever_linear_does() -> None:
    found = adapter_styles(["lora", "linear", "efft2"])
    assert found["linear"].colour == BASELINE_COLOUR
    assert found["lora"] == adapter_styles(["linear", "lora", "efft2"])["lora"]
    many = adapter_styles([f"a{i}" for i in range(9)])
    assert len({style.colour for style in many.values()}) == 9, "the ninth has the first colour"
