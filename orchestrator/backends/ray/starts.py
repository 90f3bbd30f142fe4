"""Whether starting one more trainable pays."""

from __future__ import annotations

import time

QUICK = 0.5
"""Trials that are over within so many seconds are not worth the start of a process, which takes a
few times as long.
"""


class Starts:
    """Counts the trainables that are free, and how long the last trial to end had run.

    Tune gives a trainable that becomes free to the trial that has waited longest, and ends the new
    one that was on its way to it. Where trials are over long before a process has started, new ones
    never come up: each trial would pay for the start of one in vain.
    """

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._coming: set[str] = set()
        self._free = 0
        self._lasted = float("inf")

    def asked(self, trial: str) -> None:
        """A trial was handed to Tune."""
        self._coming.add(trial)

    def started(self, trial: str) -> None:
        """It has a trainable: one that was free, or a new one."""
        self._coming.discard(trial)
        self._began[trial] = time.monotonic()
        self._free = max(self._free - 1, 0)

    def ended(self, trial: str) -> None:
        """It is over."""
        self._coming.discard(trial)
        began = self._began.pop(trial, None)
        if began is not None:
            self._lasted = time.monotonic() - began
            self._free += 1

    def pays(self) -> bool:
        """Whether one more trial should be handed out now."""
        awaited = len(self._coming)
        return self._lasted > QUICK or self._free > awaited or not (self._began or awaited)
