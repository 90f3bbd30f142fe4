"""The layout of the papers' tables: a row per adapter, a column per task, with published rows.

Plain records for the template. Accuracies and their differences are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Literal

from orchestrator.analysis.averages import mean_of
from orchestrator.analysis.published import VIT_B, PublishedBackbone, PublishedRow, for_suite
from orchestrator.analysis.summary import Summary
from orchestrator.spec import Task

REFERENCES = ("full", "linear")
"""Published rows that are shown whatever the sweep ran."""
Match = Literal["same", "unknown", "other"]
"""Whether a published backbone is the sweep's; unknown: the sweep's weights come from a file."""


@dataclass(frozen=True)
class Column:
    """One column: the mean over `parts` of the mean over each part's tasks.

    The column of a task has the parts `((task,),)`, a group mean has one part, the mean of group
    means one part per group.
    """

    label: str
    group: str
    parts: tuple[tuple[str, ...], ...]

    @property
    def is_mean(self) -> bool:
        """Whether it is an average over several tasks."""
        return self.parts != ((self.label,),)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that the column needs."""
        return tuple(task for part in self.parts for task in part)

    def read(self, accuracy: Callable[[str], float]) -> float:
        """The column's value for one row of the table (or one seed of it)."""
        return fmean(fmean(accuracy(task) for task in part) for part in self.parts)


@dataclass(frozen=True)
class Cell:
    """A value and half the width of its 95 % interval; None where undefined."""

    value: float | None
    half: float | None = None


@dataclass(frozen=True)
class TableRow:
    """One adapter. `params_m` is in millions; `with_head` where a paper counts the head too."""

    label: str
    cells: tuple[Cell, ...]
    params_m: float | None = None
    with_head: bool = False


@dataclass(frozen=True)
class TableSection:
    """Rows of one origin: the sweep's, a paper's, or differences between the two."""

    kind: Literal["own", "published", "difference"]
    title: str
    note: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Benchmark:
    """The table. `foreign`: no published row is of the sweep's backbone."""

    columns: tuple[Column, ...]
    sections: tuple[TableSection, ...]
    foreign: bool

    @property
    def groups(self) -> tuple[tuple[str, int], ...]:
        """Group → number of its columns, in order; the last columns have no group ("")."""
        runs = groupby(self.columns, key=lambda column: column.group)
        return tuple((name, len(list(columns))) for name, columns in runs)


def benchmark(summaries: Sequence[Summary]) -> Benchmark | None:
    """The table of one sweep (under each of its protocols); None for a suite nobody published."""
    sweep = summaries[0].sweep
    published = _relevant(for_suite(sweep.suite), sweep.adapters, sweep.backbone)
    if not published:
        return None
    columns = _columns(summaries[0].suite_tasks)
    sections = [_own(summary, columns) for summary in summaries]
    sections += _published(published, columns, sweep.backbone)
    sections += [
        section
        for own, summary in zip(sections[: len(summaries)], summaries, strict=True)
        if (section := _differences(own, summary, published, columns))
    ]
    foreign = all(match(row.backbone, sweep.backbone) == "other" for row in published)
    return Benchmark(columns, tuple(sections), foreign)


def match(published: PublishedBackbone, backbone: str) -> Match:
    """Whether `backbone` (a timm tag, or ARCHITECTURE@FILE) is the published one."""
    name, _, file = backbone.partition("@")
    architecture, _, tag = name.partition(".")
    if architecture != published.architecture:
        return "other"
    if file:
        return "unknown"
    return "same" if tag in published.tags else "other"


def _relevant(
    rows: Iterable[PublishedRow], adapters: Sequence[str], backbone: str
) -> list[PublishedRow]:
    """Rows of the sweep's adapters and the references, of its architecture or else ViT-B/16."""
    wanted = [row for row in rows if row.method in (*adapters, *REFERENCES)]
    architecture = backbone.partition("@")[0].partition(".")[0]
    own = [row for row in wanted if row.backbone.architecture == architecture]
    return own or [row for row in wanted if row.backbone.architecture == VIT_B.architecture]


def _columns(tasks: Sequence[Task]) -> tuple[Column, ...]:
    groups = {
        name: tuple(task.name for task in tasks if task.group == name)
        for name in dict.fromkeys(task.group for task in tasks)
    }
    every = tuple(name for names in groups.values() for name in names)
    columns = []
    for group, names in groups.items():
        columns += [Column(name, group, ((name,),)) for name in names]
        if len(groups) > 1:
            columns.append(Column("mean", group, (names,)))
    columns.append(Column("mean of tasks", "", (every,)))
    if len(groups) > 1:
        columns.append(Column("mean of groups", "", tuple(groups.values())))
    return tuple(columns)


def _own(summary: Summary, columns: Sequence[Column]) -> TableSection:
    rows = tuple(
        TableRow(
            item.adapter,
            tuple(_own_cell(summary, item.adapter, column) for column in columns),
            None if item.parameters is None else item.parameters / 1e6,
        )
        for item in summary.adapters
    )
    seeds = summary.sweep.seeds
    how = (
        "protocol paper: configuration and epoch chosen on the test split (leaks)"
        if summary.leaks
        else "chosen on val, test read once per seed"
    )
    note = f"mean over {seeds} seed{'s' if seeds > 1 else ''} ± half of the 95 % interval; {how}"
    return TableSection("own", f"This sweep, {summary.sweep.backbone}", note, rows)


def _own_cell(summary: Summary, adapter: str, column: Column) -> Cell:
    """Estimate over seeds of the column's value; empty unless every task of it is complete."""
    studies = {study.task: study for study in summary.studies if study.adapter == adapter}
    if any(task not in studies for task in column.tasks):
        return Cell(None)
    found = mean_of([[studies[task] for task in part] for part in column.parts], {})
    return Cell(found.mean, found.half)


def _published(
    rows: Sequence[PublishedRow], columns: Sequence[Column], backbone: str
) -> list[TableSection]:
    """One section for every paper and backbone, in the papers' order."""
    origins = dict.fromkeys((row.source, row.backbone) for row in rows)
    return [
        TableSection(
            "published",
            source,
            f"{on.label}{_CAUTION[match(on, backbone)]}; published, chosen on the test split",
            tuple(
                _published_row(row, columns)
                for row in rows
                if (row.source, row.backbone) == (source, on)
            ),
        )
        for source, on in origins
    ]


_CAUTION = {
    "same": "",
    "unknown": " (this sweep's if its weights file is that one)",
    "other": " (another backbone than this sweep's)",
}


def _published_row(row: PublishedRow, columns: Sequence[Column]) -> TableRow:
    cells = tuple(Cell(column.read(row.accuracy.__getitem__)) for column in columns)
    return TableRow(row.name, cells, row.params_m, row.with_head)


def _differences(
    own: TableSection, summary: Summary, rows: Sequence[PublishedRow], columns: Sequence[Column]
) -> TableSection | None:
    """Ours minus published, for adapters that have every task of the suite."""
    backbone = summary.sweep.backbone
    found = [
        _difference(mine, row, columns, backbone)
        for mine in own.rows
        if all(cell.value is not None for cell in mine.cells)
        for row in _counterparts(mine.label, rows, backbone)
    ]
    if not found:
        return None
    title = "Ours − published, points" + (", protocol paper" if summary.leaks else "")
    note = (
        "both chosen on the test split"
        if summary.leaks
        else "ours chosen on val: part of a negative difference is the published protocol's"
    )
    return TableSection("difference", title, note, tuple(found))


def _counterparts(adapter: str, rows: Sequence[PublishedRow], backbone: str) -> list[PublishedRow]:
    """The papers' main rows of the adapter, on the sweep's own backbone where there are any."""
    main = [row for row in rows if row.method == adapter and row.is_plain]
    same = [row for row in main if match(row.backbone, backbone) == "same"]
    return same or [row for row in main if not row.variant]


def _difference(
    mine: TableRow, row: PublishedRow, columns: Sequence[Column], backbone: str
) -> TableRow:
    theirs = _published_row(row, columns).cells
    other = " (other backbone)" if match(row.backbone, backbone) == "other" else ""
    return TableRow(
        f"{mine.label} − {row.paper} paper{other}",
        tuple(
            Cell(None if ours.value is None or one.value is None else ours.value - one.value)
            for ours, one in zip(mine.cells, theirs, strict=True)
        ),
    )
