"""Device utilisation of the pools: one line of JSON for every few seconds of work.

    <out>/pools/<pool>.jsonl

Nothing depends on these files: a line that is cut off or has other fields or impossible values is
left out, and so is a file that cannot be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from orchestrator.storage.files import make_folder, open_regular, parse_json, read_file, reason


@dataclass(frozen=True)
class GroupUse:
    """A group of trials that share a stack, from its start to the end of the window.

    `planned` is the width (trials at once) that the measurement chose and `bound` what limited it;
    `width` is the present one, smaller where memory ran out `halved` times. `slot` is the memory of
    one more trial in bytes, `trained` counts images, `apart` says why its trials cannot share the
    stack of the group before.
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
    """Work of one pool: until `time` (Unix seconds), over `seconds` in which it had work.

    `trained` and `evaluated` count images times trials, `flops` the backbone's operations (see
    `orchestrator.engine.roofline`), `rate` is the highest rate of large matrix products measured on
    the device in operations per second, `memory` the peak in bytes. For `waited` of the `seconds`
    evaluations waited for images to be decoded.
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
    waited: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Images trained and evaluated on, per second of work."""
        return (self.trained + self.evaluated) / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float:
        """Share of the roofline: `flops` per second over `rate`, in [0, 1]."""
        return self.flops / self.seconds / self.rate if self.seconds and self.rate else 0.0

    @property
    def width(self) -> int:
        """Width of the widest group."""
        return max((group.width for group in self.groups), default=0)


def append(folder: Path, window: Window) -> None:
    """Add a line to the pool's file, which one process writes."""
    make_folder(folder)
    with open_regular(file_of(folder, window.pool), append=True) as file:
        file.write(f"{json.dumps(asdict(window))}\n".encode())


def file_of(folder: Path, pool: str) -> Path:
    """The file of a pool by its name."""
    name = re.sub(r"[^\w.-]+", "-", pool)
    return folder / f"{name}.jsonl"


def read(folder: Path, left_out: Callable[[str], None] = lambda _: None) -> list[Window]:
    """Every window of every pool, in order of time; `left_out` is told of files without any."""
    found: list[Window] = []
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        return []
    except OSError as error:
        left_out(f"the device utilisation in '{folder}' is left out: {reason(error)}")
        return []
    for file in files:
        try:
            lines = read_file(file, None).decode(errors="replace").splitlines()
        except OSError as error:
            left_out(f"the device utilisation in '{file}' is left out: {reason(error)}")
            continue
        windows = [window for window in map(_window, lines) if window is not None]
        if not windows:
            left_out(f"the device utilisation in '{file}' is left out: no line of it can be used")
        found += windows
    return sorted(found, key=lambda window: (window.time, window.pool))


def total(windows: Sequence[Window]) -> Window:
    """Sum of all windows of one pool; groups as in the last."""
    return replace(
        windows[-1],
        seconds=sum(w.seconds for w in windows),
        waited=sum(w.waited for w in windows),
        trained=sum(w.trained for w in windows),
        evaluated=sum(w.evaluated for w in windows),
        flops=sum(w.flops for w in windows),
        memory=max(w.memory for w in windows),
    )


def by_pool(windows: Iterable[Window]) -> dict[str, list[Window]]:
    """Windows by the name of their pool."""
    pools: dict[str, list[Window]] = {}
    for window in windows:
        pools.setdefault(window.pool, []).append(window)
    return pools


@dataclass(frozen=True)
class StackUse:
    """A group of trials that share a stack, over all pools.

    `widths` are those planned in the pools and `bounds` what limited them, `slot` is the largest
    memory per trial in bytes, `trained` and `halved` are sums, `apart` as in `GroupUse`.
    """

    label: str
    widths: tuple[int, ...]
    bounds: tuple[str, ...]
    slot: int
    trained: int
    halved: int
    apart: str


@dataclass(frozen=True)
class DeviceUse:
    """Totals per pool, and the groups of trials over all pools."""

    pools: tuple[Window, ...]
    stacks: tuple[StackUse, ...]


def device_use(windows: Iterable[Window]) -> DeviceUse | None:
    """Device utilisation for the report; None without windows."""
    pools = by_pool(windows)
    if not pools:
        return None
    totals = tuple(total(found) for _, found in sorted(pools.items()))
    uses: dict[str, list[GroupUse]] = {}
    for found in pools.values():
        # Each group of a pool as it was noted last: a restarted pool has new ones.
        latest = {use.label: use for window in found for use in window.groups}
        for label, use in latest.items():
            uses.setdefault(label, []).append(use)
    return DeviceUse(totals, tuple(map(_over_pools, uses.values())))


def _over_pools(uses: Sequence[GroupUse]) -> StackUse:
    return StackUse(
        uses[0].label,
        tuple(sorted({use.planned for use in uses})),
        tuple(sorted({use.bound for use in uses})),
        max(use.slot for use in uses),
        sum(use.trained for use in uses),
        sum(use.halved for use in uses),
        next((use.apart for use in uses if use.apart), ""),
    )


def _window(line: str) -> Window | None:
    """None for a line that a kill cut off, or that is not this module's."""
    try:
        values: dict[str, Any] = parse_json(line)
        groups = tuple(GroupUse(**group) for group in values.pop("groups"))
        window = Window(**values, groups=groups)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    records: tuple[Window | GroupUse, ...] = (window, *groups)
    return window if all(map(_is_sound, records)) else None


def _is_sound(record: Window | GroupUse) -> bool:
    """Whether every field has its type, and no number is negative or beyond what a device does."""
    kinds = {"str": str, "int": int, "float": int | float}
    plain = [item for item in fields(record) if str(item.type) in kinds]
    values = [(getattr(record, item.name), kinds[str(item.type)]) for item in plain]
    return all(
        isinstance(value, kind) and (isinstance(value, str) or 0 <= value < 1e30)
        for value, kind in values
    )
