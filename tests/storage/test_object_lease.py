from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from typing import Any

import pyarrow.fs as pafs
import pytest

from orchestrator.errors import StorageError, SweepConflict
from orchestrator.storage import object_lease as claim
from orchestrator.storage.object_lease import NAME, Claim, Watch, read
from orchestrator.storage.object_store import ObjectStore

WHERE = "s3://bucket/sweep"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"BEAT": 0.05, "LOOK": 0.05, "WATCH": 0.5, "SETTLE": 0.2, "_POLL_S": 0.05}
    for name, value in seconds.items():
        monkeypatch.setattr(claim, name, value)


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore(pafs._MockFileSystem(), "bucket/sweep", WHERE)


def left_by(store: ObjectStore, token: str) -> None:
    """The lease of a command that was killed."""
    holder = {"pid": 7, "host": "head", "started": 0.0, "token": token, "beat": 3}
    store.write("", NAME, json.dumps(holder).encode())


def wait_until(there: Any) -> None:
    deadline = time.monotonic() + 10
    while not there():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_it_is_taken_kept_and_given_back(store: ObjectStore) -> None:
    with Claim(store, WHERE, "one") as held:
        first = read(store)
        assert first["token"] == "one"
        wait_until(lambda: read(store)["beat"] > first["beat"] + 1)
        held.check()
        Watch(store, WHERE, "one").check(now=True)
    assert read(store) == {}


def test_a_second_command_watches_and_is_refused(store: ObjectStore) -> None:
    said: list[str] = []
    with Claim(store, WHERE, "one") as held:
        with pytest.raises(SweepConflict, match=rf"is running in '{WHERE}'.*--out"):
            Claim(store, WHERE, "two", waiting=said.append).__enter__()
        held.check()
    assert len(said) == 1
    assert "watching for 0.5 s" in said[0]


def test_the_lease_of_a_dead_command_is_taken_over(store: ObjectStore) -> None:
    left_by(store, "dead")
    began = time.monotonic()
    with Claim(store, WHERE, "two"):
        assert time.monotonic() - began > 0.5
        assert read(store)["token"] == "two"


def test_nobody_watches_a_command_that_died_on_this_machine(store: ObjectStore) -> None:
    left_by(store, "dead")
    said: list[str] = []
    with Claim(store, WHERE, "two", dead="dead", waiting=said.append):
        assert not said


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b'{"token": 3}'])
def test_a_lease_that_makes_no_sense_holds_nobody_off(store: ObjectStore, content: bytes) -> None:
    store.write("", NAME, content)
    with Claim(store, WHERE, "one"):
        assert read(store)["token"] == "one"


def test_of_many_at_once_one_gets_it(store: ObjectStore) -> None:
    left_by(store, "dead")
    ready, won, lost = threading.Barrier(4), list[str](), list[str]()
    with ExitStack() as held:

        def rival(token: str) -> None:
            ready.wait()
            try:
                held.enter_context(Claim(store, WHERE, token))
                won.append(token)
            except SweepConflict:
                lost.append(token)

        rivals = [threading.Thread(target=rival, args=(f"rival {n}",)) for n in range(4)]
        for one in rivals:
            one.start()
        for one in rivals:
            one.join()
        assert (len(won), len(lost)) == (1, 3)
        assert read(store)["token"] == won[0]


def test_who_loses_it_is_told_and_leaves_it_alone(store: ObjectStore) -> None:
    """It was stopped for so long that another took over."""
    told = threading.Event()
    with Claim(store, WHERE, "one", lost=told.set) as held:
        left_by(store, "two")
        assert told.wait(10)
        with pytest.raises(SweepConflict, match="another command has taken"):
            held.check()
        with pytest.raises(SweepConflict, match=f"no longer holds '{WHERE}'"):
            Watch(store, WHERE, "one").check()
    assert read(store)["token"] == "two"


def test_a_store_that_is_away_for_a_while_is_borne_with(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> bytes:
        raise StorageError("the connection is down")

    with Claim(store, WHERE, "one") as held:
        worker = Watch(store, WHERE, "one")
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "read", away)
            time.sleep(0.2)
            worker.check()  # nothing to be known
            with pytest.raises(StorageError):
                worker.check(now=True)  # but no row without
        held.check()
        beat = read(store)["beat"]
        wait_until(lambda: read(store)["beat"] > beat)


def test_a_worker_looks_only_now_and_then(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LOOK", 60.0)
    left_by(store, "one")
    worker = Watch(store, WHERE, "one")
    worker.check()
    store.delete("", NAME)
    worker.check()
    with pytest.raises(SweepConflict):
        worker.check(now=True)
