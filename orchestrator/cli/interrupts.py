"""Ctrl-C and SIGTERM, from the first line of a command to its last. Imports nothing slow.

The first one ends the command in good order, the second one ends the process at once. Python calls
a signal's handler when the main thread gets to it, which may be never while a library makes it
wait; so a thread hears of the signals too, and can end the process.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CODE = 130
MESSAGE = "interrupted; run the same command again to continue"
_ENDING = "ending in good order; Ctrl-C again stops at once"
_AT_ONCE = "stopped at once; nothing finished is lost, run the same command again to continue"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ONE_SECONDS = 0.5
"""A wrapper passes on what the terminal has sent to this process already: both count as one."""
_QUIET_SECONDS = 1.5
"""A command that has not ended after this time says that it is about to."""
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """The answer to the signals since `listen`; there is one object for a process."""

    def __init__(self) -> None:
        self.raised = False
        """Whether `KeyboardInterrupt` was raised, which happens once."""
        self._finishing = False
        self._first: float | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] | None = None

    def listen(self) -> None:
        """Answer signals from now on. Call it in the main thread."""
        self.raised, self._finishing, self._first = False, False, None
        self._before = _replace(self._answer)
        if self._pipe is None:
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            os.register_at_fork(after_in_child=_forget)
            atexit.register(_ignore)  # registered first, called last
            threading.Thread(target=self._hear, args=self._pipe[:1], daemon=True).start()
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)

    def finish(self) -> None:
        """What is left is short: the first signal lets it finish, the second stops it."""
        self._finishing = True

    def close(self) -> None:
        """Answer no more signals; for a process that goes on after its command."""
        signal.set_wakeup_fd(-1)
        self._first = None
        _restore(self._before)

    def _answer(self, number: int, frame: object) -> None:
        if not self._finishing and not self.raised:
            self.raised = True
            raise KeyboardInterrupt

    def _hear(self, pipe: int) -> None:
        announced = False
        while True:
            ready, _, _ = select.select([pipe], [], [], 0.25)
            came = bool(ready and set(os.read(pipe, 64)) & set(_SIGNALS))
            now, first = time.monotonic(), self._first
            if first is None:
                announced, self._first = False, now if came else None
            elif came and now - first > _ONE_SECONDS:
                _stop_at_once()
            elif not announced and now - first > _QUIET_SECONDS:
                announced = True
                _print(_ENDING)


INTERRUPTS = Interrupts()


@contextmanager
def answered() -> Iterator[None]:
    """For imports, before `listen`: a signal ends the process with a sentence."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def answer(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = _replace(answer)
    try:
        yield
    except BaseException:  # a module in C makes an error of its own of it
        if not received:
            raise
        _print(MESSAGE)
        raise SystemExit(CODE) from None
    finally:
        _restore(before)


def _replace(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Install a handler for the signals, but for those that a shell has this process ignore (in
    the background, `nohup`); returns the former ones.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    replaced = {number: former for number, former in before.items() if former != signal.SIG_IGN}
    for number in replaced:
        signal.signal(number, handler)
    return replaced


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _stop_at_once() -> None:
    """End the process without its cleanup, as SIGKILL does: its children notice by themselves."""
    _print(_AT_ONCE)
    os._exit(CODE)


def _print(text: str) -> None:
    """Not through `sys.stderr`, which the main thread may have locked."""
    hidden = _SHOW_CURSOR if sys.stderr is not None and os.isatty(2) else b""
    os.write(2, hidden + f"orchestrate: {text}\n".encode())


def _ignore() -> None:
    """For the interpreter's own end, which has nothing left to say."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _forget() -> None:
    """A forked process shares the pipe, and would report its own signals as this one's."""
    signal.set_wakeup_fd(-1)
