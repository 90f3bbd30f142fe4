"""Tune's questions about the class of its trials, answered from memory.

For every trial Tune asks the head's key-value store several times whether the class is registered,
and for the class itself. With short trials that is a quarter of the driver's loop (`benchmarks/
bookkeeping.py`, profiled), and on a cluster whose head is far away each question is a round trip.
A class does not change while its Tuner runs, so one answer is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import registry

_ASK = "_internal_kv_get"


@contextmanager
def remembered() -> Iterator[None]:
    """While it lasts, what the store has answered once is not asked again.

    Where a version of Ray asks in another way, nothing changes.
    """
    tunes: Any = registry
    ask = getattr(tunes, _ASK, None)
    if ask is None:
        yield
        return
    known: dict[bytes, bytes] = {}

    def answer(key: bytes, **more: Any) -> bytes | None:
        if key not in known:
            value: bytes | None = ask(key, **more)
            if value is None:
                return None
            known[key] = value
        return known[key]

    setattr(tunes, _ASK, answer)
    try:
        yield
    finally:
        setattr(tunes, _ASK, ask)
