"""Retry storage operations that fail transiently: full disk, share away, read-only mount."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import StorageError

FIRST, LONGEST = 0.5, 15.0
"""Seconds of the first pause, which doubles, and of the longest."""
TRANSIENT = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EAGAIN),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN),
    }
)
"""Error numbers of a disk or a share that may pass within minutes."""

_T = TypeVar("_T")
log = logging.getLogger("orchestrator")
"""The log of processes without a terminal."""


def is_transient(error: BaseException | None) -> bool:
    """Whether an operation that failed with `error`, or with its cause, may succeed later."""
    if error is None or isinstance(error, StorageError):
        return error is not None
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return is_transient(error.__cause__)


class RetryPolicy:
    """Retry for up to `seconds` from the first of consecutive transient failures.

    `notify` is called with a sentence at the first failure and at the next success; by default the
    process's log.
    """

    def __init__(self, seconds: float, notify: Callable[[str], None] | None = None) -> None:
        self._seconds = seconds
        self._notify = notify or log.warning
        self._since: float | None = None
        self._pause = FIRST

    def failed(self, error: Exception) -> float:
        """Seconds to pause before the next attempt; raises `error` if it is not transient, or if
        failures have lasted too long.
        """
        now = time.monotonic()
        since = now if self._since is None else self._since
        if not is_transient(error) or now - since >= self._seconds:
            raise error
        if self._since is None:
            self._since = now
            why = str(error).partition(". ")[0]  # what to do comes when it is to be done
            self._notify(f"storage refuses, trying again for up to {self._seconds:g} s: {why}")
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST)
        return min(pause, max(since + self._seconds - now, 0.0))

    def succeeded(self) -> None:
        """An attempt succeeded: the next failure starts a new period."""
        if self._since is not None:
            waited = time.monotonic() - self._since
            self._notify(f"storage works again, after {waited:.0f} s")
        self._since, self._pause = None, FIRST

    def call(self, action: Callable[[], _T]) -> _T:
        """The result of `action()`, retried while it fails transiently; at last its error."""
        while True:
            try:
                done = action()
            except Exception as error:
                time.sleep(self.failed(error))
            else:
                self.succeeded()
                return done
