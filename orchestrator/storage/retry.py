"""Bearing with storage that refuses for a while: a full disk, a share that is away or read-only."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import StorageError

FIRST, LONGEST = 0.5, 15.0
"""Seconds of the first pause, which doubles, up to the longest."""
TRANSIENT = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EAGAIN),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN),
    }
)
"""What a disk or a share says that may be well in a minute."""

_T = TypeVar("_T")
log = logging.getLogger("orchestrator")
"""What a process without a person in front of it has to say."""


def is_transient(error: BaseException | None) -> bool:
    """Whether storage may grant later what it refused with `error`, or with what caused it."""
    if error is None or isinstance(error, StorageError):
        return error is not None
    if isinstance(error, OSError):
        return error.errno in TRANSIENT
    return is_transient(error.__cause__)


class RetryPolicy:
    """Bears refusals for `seconds` in a row, counted from the first.

    `say` hears the first of them in words, and that it is over; by default the process's log.
    """

    def __init__(self, seconds: float, say: Callable[[str], None] | None = None) -> None:
        self._seconds = seconds
        self._say = say or log.warning
        self._since: float | None = None
        self._pause = FIRST

    def bear(self, error: Exception) -> float:
        """Seconds to pause before the next attempt; raises `error` if it is no refusal, or if they
        have lasted too long.
        """
        now = time.monotonic()
        since = now if self._since is None else self._since
        if not is_transient(error) or now - since >= self._seconds:
            raise error
        if self._since is None:
            self._since = now
            why = str(error).partition(". ")[0]  # what to do comes when it is to be done
            self._say(f"storage refuses, trying again for up to {self._seconds:g} s: {why}")
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST)
        return min(pause, max(since + self._seconds - now, 0.0))

    def over(self) -> None:
        """It was granted: the next refusal counts from its own beginning."""
        if self._since is not None:
            waited = time.monotonic() - self._since
            self._say(f"storage works again, after {waited:.0f} s")
        self._since, self._pause = None, FIRST

    def call(self, action: Callable[[], _T]) -> _T:
        """`action()`, again and again while storage refuses it; the last refusal in the end."""
        while True:
            try:
                done = action()
            except Exception as error:
                time.sleep(self.bear(error))
            else:
                self.over()
                return done
