"""Progress for people: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.search.study import StudyProgress

_LINE_SECONDS = 10.0


class Display:
    """Context manager that shows `StudyProgress` as it is told of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._began = time.monotonic()
        self._first_done: int | None = None
        self._last_line = self._last_shown = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """One sentence, above the table."""
        self._console.print(sentence, highlight=False, markup=False)

    def progress(self, studies: Sequence[StudyProgress]) -> None:
        """The state of every study; a table at most four times a second, or a line every ten."""
        now = time.monotonic()
        recorded = sum(map(_recorded, studies))
        if self._first_done is None:
            self._first_done, self._began = recorded, now
        finished = all(study.stage == "done" for study in studies)
        if self._live:
            if finished or now - self._last_shown > 0.25:
                self._last_shown = now
                self._live.update(_table(studies, self._left(studies, recorded, now)))
        elif finished or now - self._last_line > _LINE_SECONDS:
            if finished and self._last_line == float("inf"):
                return
            self._last_line = float("inf") if finished else now
            self.say(_line(studies, self._left(studies, recorded, now)))

    def _left(self, studies: Sequence[StudyProgress], recorded: int, now: float) -> str:
        """Time left, from the rate of trials since this command began."""
        done = recorded - (self._first_done or 0)
        missing = sum(study.total for study in studies) - recorded
        if missing <= 0:
            return "done"
        if done < 3:
            return "estimating"
        return duration((now - self._began) / done * missing) + " left"


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


def _table(studies: Sequence[StudyProgress], left: str) -> Table:
    table = Table(
        caption=left, caption_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in (
        "study",
        "stage",
        "done",
        "running",
        "stopped",
        "diverged",
        "failed",
        "of",
        "best val %",
    ):
        side: Literal["left", "right"] = "left" if name in ("study", "stage") else "right"
        table.add_column(name, justify=side, no_wrap=True)
    for study in studies:
        counts = (
            study.done,
            study.running,
            study.stopped,
            study.diverged,
            study.failed,
            study.total,
        )
        table.add_row(
            study.study, study.stage, *(str(n) if n else "·" for n in counts), percent(study.best)
        )
    return table


def _line(studies: Sequence[StudyProgress], left: str) -> str:
    total = sum(study.total for study in studies)
    running = sum(study.running for study in studies)
    stopped = sum(study.stopped for study in studies)
    best = ", ".join(f"{s.study} {percent(s.best)}" for s in studies if s.best is not None)
    recorded = sum(map(_recorded, studies))
    return (
        f"trials {recorded}/{total} ({stopped} stopped early), {running} running; {left}; "
        f"best val %: {best or '–'}"
    )
