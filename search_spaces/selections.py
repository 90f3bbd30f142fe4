"""Blocks and parts as text, since the choices of a search space are plain values.

layers: "0-2" or "0-2+9"    blocks 0, 1, 2 (and 9); None is the adapter's default, mostly all
sites: "mhsa" or "q+v"      one or several parts or groups of a block

An adapter's fields hold lists. `to_field` makes them, when a trial is made; `to_choice` is its
inverse and has one spelling for each list of blocks.
"""

from __future__ import annotations

import re
from typing import Any

SELECTIONS = ("layers", "sites")
_BLOCKS = re.compile(r"\d{1,4}(-\d{1,4})?(\+\d{1,4}(-\d{1,4})?)*")


def to_field(name: str, value: Any) -> Any:
    """What an adapter's field takes: a list for the text of a selection, other values as they are.

    `ValueError` if a text names no blocks.
    """
    if name not in SELECTIONS or not isinstance(value, str):
        return value
    return value.split("+") if name == "sites" else _blocks(value)


def to_choice(name: str, value: Any) -> Any:
    """The text of a selection, for a field's list or another spelling; other values as they are."""
    found = to_field(name, value)
    if name not in SELECTIONS or not isinstance(found, list | tuple):
        return found
    return "+".join(found) if name == "sites" else _text(sorted(found))


def _blocks(text: str) -> list[int]:
    readable = _BLOCKS.fullmatch(text)
    spans = [[int(end) for end in span.split("-")] for span in text.split("+")] if readable else []
    if not spans or any(span[0] > span[-1] for span in spans):
        raise ValueError(
            f"layers is {text!r:.80}; allowed: blocks such as '0-2', '7' or '0-2+9-11'."
        )
    return sorted({block for span in spans for block in range(span[0], span[-1] + 1)})


def _text(blocks: list[int]) -> str:
    spans: list[list[int]] = []
    for block in blocks:
        if spans and block == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], block]
        else:
            spans.append([block])
    return "+".join("-".join(map(str, span)) for span in spans)
