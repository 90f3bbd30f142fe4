"""Progress display: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from orchestrator.cli.console import console
from orchestrator.search.study import StudyProgress

_LINE_SECONDS = 10.0
_COUNTS = ("done", "running", "stopped", "diverged", "failed", "total")
_MAX_NAMED = 9
"""Studies that a plain line names."""
_MARGIN = 4
"""Lines of a terminal that the table's rows leave free."""


class Display:
    """Context manager that shows the `StudyProgress` passed to `progress`."""

    def __init__(self) -> None:
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._began = time.monotonic()
        self._first_done: int | None = None
        self._last_line = self._last_shown = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def progress(self, studies: Sequence[StudyProgress]) -> None:
        """Show all studies: a table at most four times a second, or a line every ten seconds."""
        now = time.monotonic()
        recorded = sum(map(_recorded, studies))
        if self._first_done is None:
            self._first_done, self._began = recorded, now
        finished = all(study.stage == "done" for study in studies)
        if self._live:
            if finished or now - self._last_shown > 0.25:
                self._last_shown = now
                shown = _condensed(studies, console.height - _MARGIN)
                self._live.update(_table(shown, self._left(studies, recorded, now)))
        elif finished or now - self._last_line > _LINE_SECONDS:
            if finished and self._last_line == float("inf"):
                return
            self._last_line = float("inf") if finished else now
            console.print(_line(studies, self._left(studies, recorded, now)))

    def _left(self, studies: Sequence[StudyProgress], recorded: int, now: float) -> str:
        """Time left, from the rate of trials since this command started."""
        done = recorded - (self._first_done or 0)
        missing = sum(study.total for study in studies) - recorded
        if missing <= 0:
            return "done"
        if done < 3:
            return "estimating"
        return duration((now - self._began) / done * missing) + " left"


def print_notices(deviations: Sequence[str], notes: Mapping[str, Sequence[str]]) -> None:
    """Print which tasks differ from the benchmark's, the first two and the number of others, and
    what else is to be known of their images.
    """
    for text in deviations[:2]:
        console.print(f"notice: {text}")
    if len(deviations) > 2:
        console.print(f"notice: {len(deviations) - 2} more tasks differ too")
    if deviations:
        console.print("notice: results on them cannot be compared with published ones")
    for name, sentences in notes.items():
        for text in sentences:
            console.print(f"notice: {name}: {text}")


def duration(seconds: float) -> str:
    """`95` → `1m35s`, `7300` → `2h02m`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def percent(value: float | None) -> str:
    """An accuracy in [0, 1] as percent."""
    return "–" if value is None else f"{100 * value:.1f}"


def _recorded(study: StudyProgress) -> int:
    return study.done + study.stopped + study.diverged + study.failed


class DataProgress:
    """Context manager with a progress bar for each task whose data is prepared."""

    def __init__(
        self, action: str = "preparing ", unit: Literal["images", "bytes"] = "images"
    ) -> None:
        self._action, self._unit = action, unit
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn() if unit == "images" else DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` images of a task are ready: a bar, or a line."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
            if console.is_terminal:
                self._bars.start()
            else:
                console.print(f"{self._action}{what}: {total:,} {self._unit}")
        self._bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            self._bars.update(self._tasks[what], visible=False)


def _condensed(studies: Sequence[StudyProgress], rows: int) -> Sequence[StudyProgress]:
    """At most `rows` rows: the running studies, and one row with the sum of all others."""
    if len(studies) <= rows:
        return studies
    shown = [study for study in studies if study.running][: max(1, rows - 1)]
    others = [study for study in studies if study not in shown]
    done = sum(study.stage == "done" for study in others)
    name = f"{len(others)} others, {done} of them done"
    return [*shown, _sum(name, others)]


def _sum(name: str, studies: Sequence[StudyProgress]) -> StudyProgress:
    counts = {name: sum(getattr(study, name) for study in studies) for name in _COUNTS}
    return StudyProgress(study=name, stage="", best=None, **counts)


def _table(studies: Sequence[StudyProgress], left: str) -> Table:
    table = Table(
        caption=left, caption_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in ("study", "stage", *_COUNTS[:-1], "of", "best %"):
        side: Literal["left", "right"] = "left" if name in ("study", "stage") else "right"
        table.add_column(name, justify=side, no_wrap=True)
    for study in studies:
        counts = [str(getattr(study, name) or "·") for name in _COUNTS]
        table.add_row(study.study, study.stage, *counts, _best(study))
    return table


def _best(study: StudyProgress) -> str:
    """The best accuracy, and on which split it is."""
    split = "" if study.best is None else " test, leaks" if study.leaks else " val"
    return percent(study.best) + split


def _line(studies: Sequence[StudyProgress], left: str) -> str:
    total = sum(study.total for study in studies)
    running = sum(study.running for study in studies)
    stopped = sum(study.stopped for study in studies)
    found = [f"{s.study} {_best(s)}" for s in studies if s.best is not None]
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    best = ", ".join(found[:_MAX_NAMED]) + more
    recorded = sum(map(_recorded, studies))
    return (
        f"trials {recorded}/{total} ({stopped} stopped early), {running} running; {left}; "
        f"best %: {best or '–'}"
    )
