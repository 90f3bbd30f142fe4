"""Records of a pool for people: the trial log and the utilisation of its device.

No result depends on them, so nothing here raises: a failure to write is logged.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from orchestrator import provenance
from orchestrator.engine import memory, roofline
from orchestrator.engine.group import Group, WorkDone
from orchestrator.engine.grouping import incompatible_because
from orchestrator.engine.pool import Pool
from orchestrator.errors import StorageError
from orchestrator.results import throughput
from orchestrator.results.throughput import GroupUse, Window
from orchestrator.storage.files import open_regular
from orchestrator.storage.retry import log
from orchestrator.storage.sweep_storage import SweepStorage

UPLOAD_SECONDS = 5.0
"""Between two copies of a log in an object store, which takes whole files only."""
WINDOW_SECONDS = 10.0
"""Of work in one utilisation record while trials run."""
LAST_WINDOW_SECONDS = 1.0
"""The least work that is recorded once no trial runs."""


class TrialLog:
    """Lines in logs/trials.log, whole even when several pools write at once.

    In an object store every process has a log of its own.
    """

    def __init__(self, storage: SweepStorage) -> None:
        self._storage = storage
        self._path = storage.paths.trial_log
        if storage.store is not None:
            own = f"{provenance.host()}-{os.getpid()}-{secrets.token_hex(4)}"
            self._path = self._path.with_name(f"trials-{own}.log")
        self._next_upload = 0.0

    def write(self, event: str, key: str, epoch: int) -> None:
        """Add a line: Unix time, event, trial key, process id, epochs that the trial has run."""
        line = f"{time.time():.3f} {event} {key} {os.getpid()} {epoch}\n".encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open_regular(self._path, append=True) as file:  # unbuffered: the line in one call
                file.write(line)
        except OSError as error:
            log.warning("not in the trial log: %s %s: %s", event, key, error)
        if time.monotonic() > self._next_upload:
            self.upload()

    def upload(self) -> None:
        """Make the log visible to other machines."""
        self._next_upload = time.monotonic() + UPLOAD_SECONDS
        if self._path.exists():
            _upload(self._storage, self._path)


class UtilisationLog:
    """Appends a `Window` to pools/<name>.jsonl for every few seconds of a pool's work.

    The device's peak rate is measured when this is made.
    """

    def __init__(self, storage: SweepStorage, name: str, device: torch.device) -> None:
        self._storage, self._name, self._device = storage, name, device
        self._rate = roofline.rate(device)
        self.begin()

    def begin(self) -> None:
        """Start counting for a new pool."""
        self._busy, self._before = 0.0, WorkDone()

    def worked(self, seconds: float, pool: Pool) -> None:
        """Count a step that took so long; write a record if one is due."""
        self._busy += seconds
        if self._busy >= (WINDOW_SECONDS if pool.running else LAST_WINDOW_SECONDS):
            self.write(pool)

    def write(self, pool: Pool) -> None:
        """Write a record of the work since the last one, if there was any."""
        done, before = pool.work, self._before
        if done.steps == before.steps:
            return
        gpu = self._device.type == "cuda"
        window = Window(
            pool=self._name,
            device=torch.cuda.get_device_name(self._device) if gpu else "CPU",
            time=time.time(),
            seconds=self._busy,
            trained=done.trained - before.trained,
            evaluated=done.evaluated - before.evaluated,
            flops=done.flops - before.flops,
            rate=self._rate,
            memory=memory.peak(self._device),
            groups=group_use(pool.groups),
            waited=done.waited - before.waited,
        )
        folder = self._storage.paths.pools
        try:
            throughput.append(folder, window)
        except OSError as error:  # the next record includes what this one would have said
            log.warning("no utilisation record in '%s': %s", folder, error)
            return
        self._busy, self._before = 0.0, done
        _upload(self._storage, throughput.file_of(folder, self._name))


def group_use(groups: Sequence[Group]) -> tuple[GroupUse, ...]:
    """A pool's groups as they are recorded, in the order of their first trial."""
    return tuple(
        GroupUse(
            label=group.key.label(),
            width=group.width,
            planned=group.plan.width,
            bound=group.plan.bound,
            slot=group.plan.slot,
            trained=group.work.trained,
            halved=group.work.halved,
            apart="" if before is None else incompatible_because(before.key, group.key),
        )
        for group, before in zip(groups, [None, *groups], strict=False)
    )


def _upload(storage: SweepStorage, path: Path) -> None:
    try:
        storage.upload(path)
    except (StorageError, OSError) as error:
        log.warning("'%s' is not uploaded: %s", path, error)
