"""JSON files that may be damaged, edited or another person's: read with their faults in words."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.storage.files import read_regular

_MOST_BYTES = 100_000_000


def read_json(path: Path) -> Any:
    """The content of a regular file; `OSError` if it cannot be read, `ValueError` saying why it is
    no JSON. Refused beyond what Python refuses: keys given twice, NaN and endless nesting.
    """
    data = read_regular(path, _MOST_BYTES)
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; of a key that is given twice, other readers see another value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, number in Counter(name for name, _ in pairs).items() if number > 1]
        raise ValueError(f"given twice: {', '.join(twice):.200}")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
