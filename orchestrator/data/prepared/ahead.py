"""Images read and decoded on all cores, handed over in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from orchestrator.data.images import ImageError
from orchestrator.data.listing import Item

T = TypeVar("T")
AHEAD = 256
"""So many images are in memory at most."""


def ahead(
    items: Iterable[Item], read: Callable[[bytes], T], problems: list[str]
) -> Iterator[T | None]:
    """`read(bytes)` of every item, in order; None and a problem where an image is bad.

    Threads, not processes: Pillow decodes and resizes outside the interpreter's lock.
    """

    def guarded(item: Item) -> T | str:
        try:
            return read(item.read())
        except ImageError as error:
            return f"{item.where}: {error}"
        except OSError as error:
            return f"{item.where}: {error.strerror or error}"

    def settled(future: Future[T | str]) -> T | None:
        found = future.result()
        if not isinstance(found, str):
            return found
        problems.append(found)
        return None

    with ThreadPoolExecutor(cores()) as pool:
        window: deque[Future[T | str]] = deque()
        for item in items:
            window.append(pool.submit(guarded, item))
            if len(window) >= AHEAD:
                yield settled(window.popleft())
        while window:
            yield settled(window.popleft())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
