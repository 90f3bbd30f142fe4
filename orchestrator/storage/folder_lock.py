"""One command per output folder, and none that starts while workers of a killed one still run.

Both are `flock`s, which the system drops when their holder dies, however it dies:
`.lock-driver` is held exclusively by the command, `.lock-workers` shared by every process that
works for it. `.lease.json` says who the command is, for people and for late workers.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from orchestrator.errors import InvalidInput, StorageError, SweepConflict
from orchestrator.storage.files import make_folder, read_json, unlockable, write_whole

DRIVER, WORKERS, HOLDER = ".lock-driver", ".lock-workers", ".lease.json"
_GRACE_S = 1.0  # a killed holder keeps its lock until the system has taken it apart
_POLL_S = 0.05
_VISIBLE_S = 3.0  # a share may show what another machine wrote a moment later

_driver_locks: set[int] = set()


class FolderLock:
    """Context manager: the right to plan and write in the output folder `out`.

    Args:
        out: output folder on a local disk or NFS; made if it is missing.
        timeout: seconds to wait for the workers of a killed command to end.
        waiting: called once with a sentence for the user if there is something to wait for.
        name: what messages call it, if not `out`.

    Entering raises `SweepConflict` when another command holds the lease (naming it) or orphaned
    workers outlast `timeout`, and `InvalidInput` when the folder cannot be written or locked.
    `token` names this lease; give it to `hold_worker_lock`. `former` named the one before it.
    """

    def __init__(
        self,
        out: Path,
        timeout: float = 60.0,
        waiting: Callable[[str], None] = lambda _: None,
        name: str = "",
    ) -> None:
        # In the order of time: a folder with an older one is not where this lease was taken.
        self.token = f"{time.time_ns():016x}{secrets.token_hex(8)}"
        self.former = ""
        self._out, self._name, self._timeout = out, name or str(out), timeout
        self._waiting = waiting
        self._lock = -1

    def __enter__(self) -> Self:
        self._lock = _open(self._out, DRIVER)
        _driver_locks.add(self._lock)
        try:
            if not _exclusive(self._lock, self._out, _GRACE_S):
                raise SweepConflict(running(self._name, _holder(self._out)))
            self.former = token_of(self._out)
            self._announce()
            self._wait_for_orphans()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock in _driver_locks:
            _driver_locks.discard(self._lock)
            os.close(self._lock)

    def _announce(self) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            "token": self.token,
        }
        try:
            write_whole(self._out / HOLDER, json.dumps(holder).encode())
        except OSError as error:
            raise _unwritable(self._out, error) from error

    def _wait_for_orphans(self) -> None:
        lock = _open(self._out, WORKERS)
        try:
            if _exclusive(lock, self._out, 0.0):
                return
            self._waiting(
                f"waiting up to {self._timeout:g} s for workers of a command that was killed in "
                f"'{self._name}' to end"
            )
            if not _exclusive(lock, self._out, self._timeout):
                raise SweepConflict(
                    f"workers of a command that was killed in '{self._name}' still run after "
                    f"{self._timeout:g} s. Wait, or find them with `lsof {self._out / WORKERS}` "
                    "and end them, then run the same command again."
                )
        finally:
            os.close(lock)


def hold_worker_lock(out: Path, token: str) -> int:
    """Mark this process as a worker of the lease `token` on `out`; returns the lock's descriptor.

    The next command waits until the process ends or closes the descriptor.

    Raises `SweepConflict` when another command has taken the lease since (a worker that starts
    late, after its command was killed, must end instead of training what is trained again) or when
    this machine sees another folder at `out` than the command does; `StorageError` when the folder
    cannot be written now.
    """
    _wait_until_visible(out, token)  # before anything is made in a folder that is not the sweep's
    try:
        lock = os.open(out / WORKERS, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write to '{out}': {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        # After the lock: a newer lease shows its token before it looks for workers, so either we
        # see its token here or it waits for us.
        if token_of(out) != token:
            raise no_longer_held(str(out))
    except OSError as error:
        os.close(lock)
        raise unlockable(out, error) from error
    except SweepConflict:
        os.close(lock)
        raise
    return lock


def token_of(out: Path) -> str:
    """The token of the last lease that was taken on `out`; empty if none shows."""
    return str(_holder(out).get("token", ""))


def _wait_until_visible(out: Path, token: str) -> None:
    """Wait until this machine's `out` shows the token or a later one, for up to `_VISIBLE_S`."""
    deadline = time.monotonic() + _VISIBLE_S
    while token_of(out) < token:
        if time.monotonic() >= deadline:
            raise SweepConflict(
                f"'{out}' on host {socket.gethostname()} is not the folder that the sweep's "
                "command sees; storage of a cluster must be shared (NFS at one path, or "
                "--out s3://…)."
            )
        time.sleep(_POLL_S)


def _open(out: Path, name: str) -> int:
    try:
        make_folder(out)
        return os.open(out / name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(out, error) from error


def _exclusive(lock: int, out: Path, timeout: float) -> bool:
    """Whether the exclusive lock was acquired within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        except OSError as error:
            raise unlockable(out, error) from error


def _holder(out: Path) -> dict[str, Any]:
    try:
        content = read_json(out / HOLDER)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def describe_holder(holder: Mapping[str, Any]) -> str:
    """The command that a lock or lease names, for a person."""
    if not {"pid", "host", "started"} <= holder.keys():
        return "another command"
    since = datetime.fromtimestamp(float(holder["started"])).astimezone()
    return (
        f"another command (process {holder['pid']} on {holder['host']}, since "
        f"{since:%Y-%m-%d %H:%M:%S %Z})"
    )


def running(name: str, holder: Mapping[str, Any]) -> str:
    """That another command runs in the sweep `name`, and what to do."""
    return (
        f"{describe_holder(holder)} is running in '{name}'. Wait until it ends, stop it with "
        "Ctrl-C or `kill`, or give this one another place with --out."
    )


def no_longer_held(name: str) -> SweepConflict:
    """The error of a worker whose command has lost the sweep `name`."""
    return SweepConflict(
        f"the command that started this worker no longer holds '{name}'; the worker ends."
    )


def _unwritable(out: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"the output folder '{out}' cannot be written: {error.strerror}. Choose a folder you may "
        "write to with --out."
    )


def _forget_in_child() -> None:
    """A forked child must not keep its parent's lease alive."""
    while _driver_locks:
        os.close(_driver_locks.pop())


os.register_at_fork(after_in_child=_forget_in_child)
