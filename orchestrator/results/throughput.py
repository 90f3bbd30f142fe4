"""What pools made of their devices, as they note it: one line of JSON for every few seconds' work.

    <out>/pools/<pool>.jsonl

Nothing depends on these files: a line that is cut off or not one of ours is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.storage.files import make_folder

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class GroupUse:
    """A group of trials that share a stack, from its start to the end of the window.

    `planned` is the width that measuring chose and `bound` what set it, `width` the present one
    (less where memory ran out, `halved` times), `slot` the bytes that one more trial took, `apart`
    why its trials did not join those of the group before.
    """

    label: str
    width: int
    planned: int
    bound: str
    slot: int
    trained: int
    halved: int
    apart: str


@dataclass(frozen=True)
class Window:
    """Work of one pool: until `time` (Unix), over `seconds` in which it had work.

    `trained` and `evaluated` count images (times trials), `flops` the backbone's operations (see
    `orchestrator.engine.roofline`), `rate` is the most operations per second that large matrix
    products reach on the device, `memory` the peak in bytes.
    """

    pool: str
    device: str
    time: float
    seconds: float
    trained: int
    evaluated: int
    flops: float
    rate: float
    memory: int
    groups: tuple[GroupUse, ...]

    @property
    def images_per_second(self) -> float:
        """Images trained and evaluated on."""
        return (self.trained + self.evaluated) / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float:
        """Of the roofline: `flops` per second over `rate`."""
        return self.flops / self.seconds / self.rate if self.seconds and self.rate else 0.0

    @property
    def width(self) -> int:
        """Of the widest group."""
        return max((group.width for group in self.groups), default=0)


def append(folder: Path, window: Window) -> None:
    """Adds a line to the pool's file; one process writes it."""
    make_folder(folder)
    with file_of(folder, window.pool).open("a") as file:
        file.write(json.dumps(asdict(window)) + "\n")


def file_of(folder: Path, pool: str) -> Path:
    """The file of a pool by its name."""
    name = re.sub(r"[^\w.-]+", "-", pool)
    return folder / f"{name}{SUFFIX}"


def read(folder: Path) -> list[Window]:
    """Every window of every pool, in order of time."""
    lines = [
        line
        for file in sorted(folder.glob(f"*{SUFFIX}"))
        for line in file.read_text(errors="replace").splitlines()
    ]
    found = [window for window in map(_window, lines) if window is not None]
    return sorted(found, key=lambda window: (window.time, window.pool))


def total(windows: Sequence[Window]) -> Window:
    """All windows of one pool as one; groups as they are in the last."""
    last = windows[-1]
    return Window(
        last.pool,
        last.device,
        last.time,
        sum(w.seconds for w in windows),
        sum(w.trained for w in windows),
        sum(w.evaluated for w in windows),
        sum(w.flops for w in windows),
        last.rate,
        max(w.memory for w in windows),
        last.groups,
    )


def by_pool(windows: Iterable[Window]) -> dict[str, list[Window]]:
    """Windows by the name of their pool."""
    pools: dict[str, list[Window]] = {}
    for window in windows:
        pools.setdefault(window.pool, []).append(window)
    return pools


def _window(line: str) -> Window | None:
    """None for what a kill cut off in the middle."""
    try:
        values: dict[str, Any] = json.loads(line)
        groups = tuple(GroupUse(**group) for group in values.pop("groups"))
        return Window(**values, groups=groups)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
