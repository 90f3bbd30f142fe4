"""A share of the training images as val, for data that has only train and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from orchestrator.data.layouts.tree import Entry


def hold_out(entries: Sequence[Entry], share: float) -> tuple[list[Entry], list[Entry]]:
    """What stays in train, and what becomes val: of each class about `share` of its images.

    A class with two images or more keeps one on each side; one image stays in train. The choice
    depends on the paths in the list alone: it is the same on every machine, wherever the images
    lie, and hardly changes when a few are added. Order is kept.
    """
    by_label: dict[int, list[Entry]] = {}
    for entry in entries:
        by_label.setdefault(entry.label, []).append(entry)
    chosen: set[Entry] = set()
    for part in by_label.values():
        count = max(1, min(round(share * len(part)), len(part) - 1)) if len(part) > 1 else 0
        chosen.update(sorted(part, key=_rank)[:count])
    stay = [entry for entry in entries if entry not in chosen]
    return stay, [entry for entry in entries if entry in chosen]


def _rank(entry: Entry) -> bytes:
    return hashlib.sha256(entry.path.encode("utf-8", "surrogateescape")).digest()
