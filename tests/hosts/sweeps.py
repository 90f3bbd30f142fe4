"""The sweep that the kill matrix disturbs, and what must hold of it afterwards."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import SPACE, check_once_each, events, results
from tests.hosts.rack import wait_for
from tests.hosts.same import ledger_differences, registry_differences
from tests.hosts.standing import DATABASE, SHARED, Command, Standing

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_NAMES = {
    _MODIFY: "written in place", _MOVED_FROM: "taken", _MOVED_TO: "put", _CREATE: "put",
    _DELETE: "deleted",
}  # fmt: skip
_HEADER = struct.Struct("iIII")
_OVERFLOW = 0x4000

TRIALS = 2 * (2 + 2 * 2 + 2)
"""Two adapters × (2 configurations, both replicated with 2 seeds, 2 finals)."""
NOWHERE = "http://127.0.0.1:9"
"""A tracking server's address at which nobody listens."""


RUNS = f"sqlite:///{DATABASE}"
"""MLflow's runs of all sweeps: a new database takes longer than a sweep."""
WAITING, POOL = "ray::ResourceTrainable", "ray::PoolService"
"""How the processes that wait for trials, and those that train them, call themselves."""


def prepare(standing: Standing) -> None:
    """Writes the sweeps' search space where every host sees it."""
    (standing.shared / "space.yaml").write_text(SPACE)


def sweep(out: str, *more: str, tracking: str = "") -> str:
    """A command: one task, two adapters, every stage, a grid and no early stopping."""
    return (
        "orchestrate sweep mini --address auto --device cpu --tasks textures "
        f"--adapter lora --adapter linear --space {SHARED}/space.yaml --sampler grid "
        "--stopping none --epochs 2 --seeds 2 --width 1 "
        f"--tracking-uri {tracking or RUNS} --out {SHARED}/{out} {' '.join(more)}"
    ).strip()


class Folder:
    """Records which files enter and leave a folder, as inotify reports it from now on.

    The count of trials thus does not depend on the code under test. `drafts` is the folder from
    which files are linked; it is watched too, because the kernel merges two equal events unless
    another one is between them.
    """

    def __init__(self, path: Path, drafts: Path) -> None:
        """Makes the folders that are missing."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
        self._watches = []
        for folder in (path, drafts):
            folder.mkdir(parents=True, exist_ok=True)
            watch = libc.inotify_add_watch(self._handle, bytes(folder), mask)
            if min(self._handle, watch) < 0:
                raise OSError(ctypes.get_errno(), "inotify cannot be used", str(folder))
            self._watches.append(watch)
        self._seen: list[tuple[str, str]] = []

    def seen(self) -> list[tuple[str, str]]:
        """(what, file name) in order; `put` is a whole file that was linked or renamed into it."""
        while data := self._read():
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEADER.unpack_from(data, at)
                assert not mask & _OVERFLOW, "the kernel dropped events"
                name = data[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0").decode()
                if watch == self._watches[0]:
                    self._seen += [(what, name) for bit, what in _NAMES.items() if mask & bit]
                at += _HEADER.size + length
        return list(self._seen)

    def close(self) -> None:
        """Stops recording."""
        os.close(self._handle)

    def _read(self) -> bytes:
        try:
            return os.read(self._handle, 2**16)
        except BlockingIOError:
            return b""


@dataclass
class Disturbed:
    """A sweep's folder under observation, by its own log and by the kernel."""

    folder: Path
    kernel: Folder = field(init=False)

    def __post_init__(self) -> None:
        self.kernel = Folder(self.folder / "ledger" / "fragments", self.folder / "ledger" / "tmp")

    @property
    def recorded(self) -> int:
        """Trials in the ledger, from outside of it."""
        return len({name for what, name in self.kernel.seen() if what == "put"})

    @property
    def running(self) -> dict[str, int]:
        """Trials that are in a pool → the pool's process, by the pools' own log."""
        inside: dict[str, int] = {}
        for event in events(self.folder):
            inside.pop(event.key, None)
            if event.name == "started":
                inside[event.key] = event.pid
        return inside

    def reach(self, command: Command, recorded: int, busy: bool = True) -> None:
        """Waits until so many trials are recorded and, if `busy`, another one runs."""

        def there() -> bool:
            assert not command.ended, command.text
            return self.recorded >= recorded and (bool(self.running) or not busy)

        wait_for(f"{recorded} trials of {self.folder.name}", there, 180, pause=0.02)

    def check_counts(self, trials: int = TRIALS) -> None:
        """Every trial is in the ledger, was put there once and never taken away, and none was
        trained again: by the kernel's account and by the pools' log.
        """
        seen = self.kernel.seen()
        assert {what for what, _ in seen} <= {"put"}, "the ledger lost or rewrote something"
        put = Counter(name.removesuffix(".parquet") for _, name in seen)
        assert set(put.values()) == {1}, f"recorded more than once: {put.most_common(3)}"
        assert set(put) == set(results(self.folder))
        assert len(put) == trials
        check_once_each(self.folder)

    def check(self, calm: Path) -> None:
        """`check_counts`, and the same results and registry as the undisturbed sweep's."""
        self.check_counts()
        assert ledger_differences(calm, self.folder) == []
        assert registry_differences(calm, self.folder) == []
        assert SweepPaths(self.folder).report.exists()
        self.kernel.close()

    @property
    def taken_up(self) -> int:
        """How often a trial was started that had been started before."""
        starts = Counter(event.key for event in events(self.folder) if event.name == "started")
        return sum(number - 1 for number in starts.values())


def until(what: str, true: Callable[[], bool], seconds: float) -> float:
    """Seconds until it is true; `TimeoutError` after `seconds`."""
    began = time.monotonic()
    wait_for(what, true, seconds, pause=0.02)
    return time.monotonic() - began


def amid(standing: Standing, name: str, part: float, **options: str) -> tuple[Disturbed, Command]:
    """A running sweep of which this part is recorded and, at this moment, a trial is in a pool."""
    disturbed = Disturbed(standing.folder(name))
    command = standing.start(sweep(name, **options))
    disturbed.reach(command, round(part * TRIALS))
    return disturbed, command


def finish(command: Command) -> str:
    """Waits until the command ends well; what it printed."""
    assert command.wait() == 0, command.text
    return command.text
