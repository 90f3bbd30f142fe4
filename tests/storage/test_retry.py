from __future__ import annotations

import errno
import time
from collections.abc import Callable

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


def test_it_retries_with_growing_pauses_and_reports_it_once(clock: Clock) -> None:
    messages: list[str] = []
    assert RetryPolicy(300, messages.append).call(refusing(8, FULL)) == "done"
    assert clock.pauses == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert messages == [
        "storage refuses, trying again for up to 300 s: cannot write '/x/row': No space left on "
        "device",
        "storage works again, after 60 s",
    ]


def test_the_error_is_raised_when_the_time_is_over(clock: Clock) -> None:
    with pytest.raises(StorageError) as caught:
        RetryPolicy(300).call(refusing(1000, FULL))
    assert caught.value is FULL
    assert sum(clock.pauses) == 300


def test_a_success_starts_a_new_period(clock: Clock) -> None:
    policy = RetryPolicy(10)
    for _ in range(3):
        assert policy.call(refusing(4, FULL)) == "done"
    assert clock.pauses == [0.5, 1, 2, 4] * 3


def test_other_errors_are_raised_at_once(clock: Clock) -> None:
    for error in (LedgerError("a damaged row"), ValueError("wrong"), FileNotFoundError(2, "gone")):
        with pytest.raises(type(error)):
            RetryPolicy(300).call(refusing(1, error))
    assert not clock.pauses


def test_an_error_with_a_transient_cause_is_transient() -> None:
    def caused(error: Exception) -> CheckpointError:
        try:
            raise CheckpointError("the registry cannot be written") from error
        except CheckpointError as made:
            return made

    assert is_transient(caused(OSError(errno.ENOSPC, "full")))
    assert is_transient(OSError(errno.EROFS, "read-only"))
    assert not is_transient(caused(FileNotFoundError(errno.ENOENT, "gone")))
    assert not is_transient(CheckpointError("damaged"))
