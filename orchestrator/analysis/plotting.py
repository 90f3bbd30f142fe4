"""Colours, style and SVG output of the figures; equal numbers give equal SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.spec import digest

INK, SOFT, FAINT, GRID = "#1f2430", "#6a7080", "#b9bec9", "#e9ebf0"
BASELINE_COLOUR = "#7b8190"
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#e69f00", "#56b4e9", "#5b3e96", "#8c4a2f"),
)
"""Colour-blind safe: Okabe and Ito (2008) without yellow and black, then violet and brown."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X")

RC: Any = {  # Any: matplotlib's stubs type the keys as one long Literal.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    **dict.fromkeys(("text.color", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "xtick.minor.size"), 0),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}


@dataclass(frozen=True)
class AdapterStyle:
    """Colour and marker of one adapter, the same in every figure of a report."""

    colour: str
    marker: str


def adapter_styles(adapters: Sequence[str]) -> dict[str, AdapterStyle]:
    """Adapter → style, by its position in the sweep; `linear` is always grey."""
    others = [name for name in adapters if name != "linear"]
    found = {
        name: AdapterStyle(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, name in enumerate(others)
    }
    return {**found, "linear": AdapterStyle(BASELINE_COLOUR, "o")}


def draw(name: str, label: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """Inline SVG of what `paint` draws on an empty figure of `size` (width, height in inches).

    `name` makes the ids of this figure distinct on the page; `label` is for screen readers. Equal
    input gives equal text: no date, fixed salt. Fonts are the page's.
    """
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}), warnings.catch_warnings():
        # Text stays text: matplotlib's font only measures it and may lack a character.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        paint(figure)
        _lay_out(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        # Not `savefig`, which draws everything once more to measure it.
        canvas: Any = FigureCanvasSVG(figure)  # Any: its methods have no types.
        canvas.print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = _own_ids(text[text.index("<svg") :], f"f{digest(name)[:8]}-")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def _lay_out(figure: Figure) -> None:
    """Run the layout once: an engine that stays would run at every drawing."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")


def _own_ids(svg: str, prefix: str) -> str:
    """`svg` with `prefix` before every id and every reference to one, in tags only."""

    def rename(tag: re.Match[str]) -> str:
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", tag[0])

    return re.sub(r"<[^>]+>", rename, svg)


def panels(figure: Figure, count: int, columns: int, value: str) -> list[Axes]:
    """`count` axes in rows of `columns`; the rest of the last row is empty.

    Grid lines are along the value axis only; those on the left are labelled with `value`.
    """
    grid = figure.subplots(-(-count // columns), columns, squeeze=False)
    cells: list[Axes] = list(grid.flat)
    for index, axes in enumerate(cells):
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("" if index % columns else value)
        if index >= count:
            axes.set_axis_off()
    return cells[:count]


def legend(figure: Figure, adapters: Sequence[str]) -> None:
    """The adapters' styles, above the panels."""
    styles = adapter_styles(adapters)
    handles = [
        Line2D([], [], color=styles[name].colour, marker=styles[name].marker, label=name, lw=2)
        for name in adapters
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(8, len(handles)))


def field_axis(axes: Axes, levels: Sequence[float], logarithmic: bool) -> None:
    """An x axis for a hyper-parameter, with a tick at each level, at most about six."""
    if logarithmic:
        axes.set_xscale("log")
    axes.minorticks_off()
    step = -(-len(levels) // 6)
    ticks = list(levels)[::step]
    axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
