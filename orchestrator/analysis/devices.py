"""What the pools made of their devices, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.results.throughput import GroupUse, Window, by_pool, total


@dataclass(frozen=True)
class Stacks:
    """Trials that shared stacks, over all pools: `widths` as planned in each, and what set them."""

    label: str
    widths: tuple[int, ...]
    bounds: tuple[str, ...]
    slot: int
    trained: int
    halved: int
    apart: str


@dataclass(frozen=True)
class Devices:
    """Totals per pool, and the groups of trials with the reason why each is one of its own."""

    pools: tuple[Window, ...]
    stacks: tuple[Stacks, ...]


def devices(windows: Iterable[Window]) -> Devices | None:
    """None if no pool has noted anything."""
    pools = by_pool(windows)
    if not pools:
        return None
    totals = tuple(total(found) for _, found in sorted(pools.items()))
    uses: dict[str, list[GroupUse]] = {}
    for found in pools.values():
        for use in _latest(found):
            uses.setdefault(use.label, []).append(use)
    return Devices(totals, tuple(_together(some) for some in uses.values()))


def _latest(windows: Sequence[Window]) -> list[GroupUse]:
    """Every group of a pool as it was last noted: a pool that began afresh has new ones."""
    found = {use.label: use for window in windows for use in window.groups}
    return list(found.values())


def _together(uses: Sequence[GroupUse]) -> Stacks:
    return Stacks(
        uses[0].label,
        tuple(sorted({use.planned for use in uses})),
        tuple(sorted({use.bound for use in uses})),
        max(use.slot for use in uses),
        sum(use.trained for use in uses),
        sum(use.halved for use in uses),
        next((use.apart for use in uses if use.apart), ""),
    )
