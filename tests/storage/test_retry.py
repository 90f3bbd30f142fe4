from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError, LedgerError, StorageError
from orchestrator.storage.retry import RetryPolicy, is_transient


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.pauses = 1000.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def refusing(times: int, error: Exception) -> Callable[[], str]:
    """Raises so many times, then answers."""
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


FULL = StorageError("cannot write '/x/row': No space left on device. Free space, then go on.")


def test_it_tries_again_with_growing_pauses_and_says_so_once(clock: Clock) -> None:
    said: list[str] = []
    assert RetryPolicy(300, said.append).call(refusing(8, FULL)) == "done"
    assert clock.pauses == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert said == [
        "storage refuses, trying again for up to 300 s: cannot write '/x/row': No space left on "
        "device",
        "storage works again, after 60 s",
    ]


def test_it_ends_with_the_refusal_when_the_time_is_over(clock: Clock) -> None:
    with pytest.raises(StorageError) as caught:
        RetryPolicy(300).call(refusing(1000, FULL))
    assert caught.value is FULL
    assert sum(clock.pauses) == 300


def test_what_is_granted_in_between_starts_the_time_afresh(clock: Clock) -> None:
    patience = RetryPolicy(10)
    for _ in range(3):
        assert patience.call(refusing(4, FULL)) == "done"
    assert clock.pauses == [0.5, 1, 2, 4] * 3


def test_what_is_no_refusal_is_raised_at_once(clock: Clock) -> None:
    for error in (LedgerError("a damaged row"), ValueError("wrong"), FileNotFoundError(2, "gone")):
        with pytest.raises(type(error)):
            RetryPolicy(300).call(refusing(1, error))
    assert not clock.pauses


def test_what_a_refusal_caused_is_one(tmp_path: Path) -> None:
    def caused(error: Exception) -> CheckpointError:
        try:
            raise CheckpointError("the registry cannot be written") from error
        except CheckpointError as made:
            return made

    assert is_transient(caused(OSError(errno.ENOSPC, "full")))
    assert is_transient(OSError(errno.EROFS, "read-only"))
    assert not is_transient(caused(FileNotFoundError(errno.ENOENT, "gone")))
    assert not is_transient(CheckpointError("damaged"))
