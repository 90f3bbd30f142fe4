from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from obstore.store import MemoryStore

from orchestrator.errors import StorageError, SweepConflict
from orchestrator.storage import lease
from orchestrator.storage.lease import NAME, Lease, LeaseReader, read
from orchestrator.storage.object_store import ObjectStore, Version, storage
from tests.commands import until
from tests.imports import ROOT
from tests.object_stores import s3_server

WHERE = "s3://bucket/sweep"
QUICK = {"BEAT": 0.05, "READ_EVERY": 0.05, "VALID": 0.8, "TAKEOVER": 1.0, "_POLL_S": 0.05}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(lease, name, value)


@pytest.fixture
def store() -> ObjectStore:
    bucket = MemoryStore()
    return ObjectStore(bucket, bucket, "bucket/sweep", WHERE)


def left_by(store: ObjectStore, token: str) -> None:
    """The lease of a command that was killed."""
    holder = {"pid": 7, "host": "head", "started": 0.0, "token": token, "beat": 3}
    store.write("", NAME, json.dumps(holder).encode())


def token_in(store: ObjectStore) -> Any:
    content, _ = read(store)
    return None if content.get("released") else content.get("token")


def beat(store: ObjectStore) -> int:
    return int(read(store)[0]["beat"])


def test_it_is_taken_renewed_and_released(store: ObjectStore) -> None:
    with Lease(store, WHERE, "one") as held:
        first = beat(store)
        assert token_in(store) == "one"
        until(lambda: beat(store) > first + 1)
        held.check()
        LeaseReader(store, WHERE, "one").check(now=True)
    assert not held.held
    with pytest.raises(SweepConflict, match="no longer holds"):
        LeaseReader(store, WHERE, "one").check(now=True)
    messages: list[str] = []
    with Lease(store, WHERE, "two", waiting=messages.append):
        assert not messages, "a released lease is free at once"


def test_a_second_command_watches_and_is_refused(store: ObjectStore) -> None:
    messages: list[str] = []
    with Lease(store, WHERE, "one") as held:
        with pytest.raises(SweepConflict, match=rf"is running in '{WHERE}'.*--out"):
            Lease(store, WHERE, "two", waiting=messages.append).__enter__()
        held.check()
    (message,) = messages
    assert "watching for 1 s" in message


@pytest.mark.parametrize("known", [True, False])
def test_the_lease_of_a_dead_command_is_taken_over(store: ObjectStore, known: bool) -> None:
    """At once if the command is known to be dead; else after watching the lease."""
    left_by(store, "dead")
    began = time.monotonic()
    with Lease(store, WHERE, "two", dead="dead" if known else ""):
        assert (time.monotonic() - began > QUICK["TAKEOVER"]) != known
        assert token_in(store) == "two"


@pytest.mark.parametrize("content", [b"", b"[", b"[]"])
def test_a_damaged_lease_keeps_nobody_out(store: ObjectStore, content: bytes) -> None:
    store.write("", NAME, content)
    with Lease(store, WHERE, "one"):
        assert token_in(store) == "one"


class Contender(Lease):
    """Notes the intervals in which it believes that it holds the lease, as (begin, end)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.intervals: list[list[float]] = []

    def _write(self, version: Version | None) -> bool:
        written = super()._write(version)
        if written:
            self.intervals.append([lease._now(), self._until])
        return written

    def _release(self) -> None:
        for interval in self.intervals:
            interval[1] = min(interval[1], lease._now())
        super()._release()


class SlowStore(ObjectStore):
    """Requests wait before they are sent and before they are answered, now and then for long."""

    def replace(self, name: str, data: bytes, old: Version | None) -> Version | None:
        self._wait()
        done = super().replace(name, data, old)
        self._wait()
        if random.random() < 0.1:
            raise StorageError("the answer was lost")
        return done

    def _wait(self) -> None:
        longest = QUICK["TAKEOVER"] * 1.5
        time.sleep(longest if random.random() < 0.1 else random.random() * 0.05)


@pytest.mark.timeout(300)
def test_two_commands_never_hold_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight commands start, hold it for a while, and start again, over a store that is slow."""
    monkeypatch.setattr(lease, "VALID", 0.24)
    monkeypatch.setattr(lease, "TAKEOVER", 0.3)
    monkeypatch.setitem(QUICK, "TAKEOVER", 0.3)
    bucket = MemoryStore()
    made: list[Contender] = []
    end = time.monotonic() + 8

    def contend(number: int) -> None:
        while time.monotonic() < end:
            store = SlowStore(bucket, bucket, "bucket/sweep", WHERE)
            one = Contender(store, WHERE, f"{number} {len(made)} {random.random()}")
            made.append(one)
            try:
                with one:
                    time.sleep(random.random())
            except (SweepConflict, StorageError):
                time.sleep(random.random() * 0.1)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    beliefs = sorted(
        (begin, end, number)
        for number, one in enumerate(made)
        for begin, end in one.intervals
        if begin < end
    )
    holders = {number for *_, number in beliefs}
    assert len(holders) > 3, "it changed hands"
    last_end, last = 0.0, -1
    for begin, finish, number in beliefs:
        assert number == last or begin >= last_end, "two believed that they held it"
        last_end, last = max(finish, last_end) if number == last else finish, number


def test_a_holder_that_lost_it_is_notified_and_does_not_release_it(store: ObjectStore) -> None:
    """It was stopped for so long that another took over."""
    lost = threading.Event()
    with Lease(store, WHERE, "one", lost=lost.set) as held:
        left_by(store, "two")
        assert lost.wait(30)
        assert not held.held
        with pytest.raises(SweepConflict, match="another command has taken"):
            held.check()
        with pytest.raises(SweepConflict, match=f"no longer holds '{WHERE}'"):
            LeaseReader(store, WHERE, "one").check()
    assert token_in(store) == "two"


PAUSED = """
import sys, time
from orchestrator.storage import lease
from orchestrator.storage.object_store import storage
lease.BEAT, lease.VALID, lease.TAKEOVER = 0.1, 1.5, 2.0
try:
    with lease.Lease(storage("s3://bucket/sweep"), "the sweep", "one") as held:
        while True:
            print(held.held, flush=True)
            held.raise_if_lost()
            time.sleep(0.02)
except lease.SweepConflict:
    print("lost", flush=True)
"""


def test_a_stopped_holder_knows_at_once_that_it_lost_the_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGSTOP for longer than a takeover takes, then SIGCONT."""
    monkeypatch.setattr(lease, "TAKEOVER", 2.0)
    with (
        s3_server(),
        subprocess.Popen(
            [sys.executable, "-c", PAUSED], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as one,
    ):
        assert one.stdout is not None
        assert one.stdout.readline() == "True\n"
        one.send_signal(signal.SIGSTOP)
        there = storage("s3://bucket/sweep")
        assert isinstance(there, ObjectStore)
        try:
            with Lease(there, WHERE, "two") as held:
                one.send_signal(signal.SIGCONT)
                lines = one.stdout.read().split()
                held.check()
        finally:
            one.kill()
    # Lines from before it was stopped, at most one that was on its way, and no "True" after that.
    assert set(lines[lines.index("False") :]) <= {"False", "lost"}
    assert lines[-1] == "lost"


def test_a_store_that_is_away_suspends_the_lease_until_it_is_renewed(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise StorageError("the connection is down")

    with Lease(store, WHERE, "one") as held:
        worker = LeaseReader(store, WHERE, "one")
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "replace", away)
            patch.setattr(ObjectStore, "read_version", away)
            worker.check()  # the next one may succeed
            with pytest.raises(StorageError):
                worker.check(now=True)  # before a row it must
            until(lambda: not held.held)
            with pytest.raises(StorageError, match="cannot renew the lease"):
                held.check()
        held.check()
        before = beat(store)
        until(lambda: beat(store) > before)


def test_a_renewal_whose_answer_was_lost_is_no_loss(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store repeats the request, which then does not match any more."""
    replace = ObjectStore.replace
    with Lease(store, WHERE, "one") as held:
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "replace", lambda *a: (replace(*a), None)[1])
            time.sleep(0.2)
        before = beat(store)
        until(lambda: beat(store) > before)
        held.check()


def test_a_worker_reads_the_lease_periodically(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "READ_EVERY", 60.0)
    left_by(store, "one")
    worker = LeaseReader(store, WHERE, "one")
    worker.check()
    store.delete("", NAME)
    worker.check()
    with pytest.raises(SweepConflict):
        worker.check(now=True)
