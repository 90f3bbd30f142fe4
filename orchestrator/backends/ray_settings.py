"""Ray's settings, which it reads from the environment when it is imported: apply them before."""

from __future__ import annotations

import os

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
