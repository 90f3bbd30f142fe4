"""Ray's settings, which it reads from the environment when it is imported: apply them before."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import BackendError

_LONGEST = 36
"""Bytes of a folder for Ray's files: below it, its sockets' paths have 68 more, of 107 at most."""
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")
_ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command's to answer
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state is never read: the ledger is
    "RAY_AIR_NEW_OUTPUT": "0",
}
# Despite its name it works on Linux too: a cluster of one machine then listens on loopback only.
_ONE_MACHINE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # 15 by default: pools would yield to the tracking process
}
# What Ray's library warns of while it cannot reach a cluster; the command says so in a sentence.
_RUNNING = {"RAY_BACKEND_LOG_LEVEL": "error"}


def apply(address: str | None) -> None:
    """Sets what a sweep on the cluster at `address` (None: a local one) needs."""
    os.environ.update(_ALWAYS | (_RUNNING if address else _ONE_MACHINE))


def own_folder() -> str | None:
    """The folder for a local cluster's files where Ray's own choice would not do; None if it does.

    Ray takes `$RAY_TMPDIR`, `$TMPDIR` or /tmp. `BackendError` if there is no usable one.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    given = os.environ.get(name, _SHORT[0])
    for folder in (given, *_SHORT):
        if len(os.fsencode(folder)) <= _LONGEST and _usable(Path(folder)):
            return None if folder == given else f"{folder}/ray"
    raise BackendError(
        f"Ray needs a folder for its sockets that can be written and whose path has {_LONGEST} "
        f"characters at most, and neither {name or 'TMPDIR'} '{given}' nor {', '.join(_SHORT)} is "
        "one. Set RAY_TMPDIR to such a folder, or use --backend local."
    )


def _usable(folder: Path) -> bool:
    """Whether Ray can make its folder `ray` there, or has it already and may write into it."""
    there = [one for one in (folder, folder / "ray") if one.exists()]
    writable = all(os.access(one, os.W_OK | os.X_OK) for one in there)
    return writable and folder.is_absolute() and folder.is_dir()
