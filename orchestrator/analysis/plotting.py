"""How figures look: one palette, one style, and SVG that is the same for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, FAINT, GRID = "#1f2430", "#6a7080", "#b9bec9", "#e9ebf0"
BASELINE_COLOUR = "#7b8190"
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#5b3e96",
    "#8c4a2f",
)
"""Okabe and Ito's colour-blind safe colours (yellow and black left out), then violet and brown."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "semibold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 8.5,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Look:
    """Colour and marker of one adapter, the same in every figure of a report."""

    colour: str
    marker: str


def looks(adapters: Sequence[str]) -> dict[str, Look]:
    """A look for each adapter, by its place in the sweep; `linear` is always the grey one."""
    others = [name for name in adapters if name != "linear"]
    found = {
        name: Look(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, name in enumerate(others)
    }
    return {**found, "linear": Look(BASELINE_COLOUR, "o")}


def draw(name: str, label: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Inline SVG of what `paint` puts on an empty figure of `size` (inches).

    `name` prefixes every id, so that many figures share one page; `label` is read out by screen
    readers. Equal input gives equal text: no date, fixed salt. Fonts are the page's.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """`count` axes in rows of `columns`; what is left of the last row stays empty."""
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    cells: list[Axes] = [axes for row in grid for axes in row]
    for axes in cells[count:]:
        axes.set_axis_off()
    return cells[:count]


def only_horizontal(axes: Axes) -> None:
    """Grid lines along the value axis only."""
    axes.grid(visible=False, axis="x")


def field_axis(axes: Axes, levels: Sequence[float], logarithmic: bool) -> None:
    """An x axis for a hyper-parameter, with a tick at each level while they are few."""
    if logarithmic:
        axes.set_xscale("log")
    axes.minorticks_off()
    step = -(-len(levels) // 6)
    ticks = list(levels)[::step]
    axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
