"""The process that owns a pool: hands it data, keeps its results. Used by both backends."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from adapters import build
from adapters.storage import save_tensors
from orchestrator import provenance
from orchestrator.backbones import load_backbone
from orchestrator.backends.meter import Meter
from orchestrator.backends.plan import Decision, HostPlan
from orchestrator.data.splits import FinalData, SearchData, open_final, open_search
from orchestrator.engine.checkpoint import path_of
from orchestrator.engine.pool import AtRung, Ended, Keeping, Pool
from orchestrator.errors import BackendError, CheckpointError, DataError
from orchestrator.lease import hold_orphan_lock
from orchestrator.ledger import Ledger
from orchestrator.places import Places
from orchestrator.spec import Trial, TrialResult


class PoolHost:
    """A pool with its data and its records: a result is in the ledger before anyone hears of it.

    `part` tells it from the other pools of the device, of whose memory `share` is its own.
    """

    def __init__(
        self,
        plan: HostPlan,
        device: str,
        threads: int | None = None,
        part: str = "",
        share: float = 1.0,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._plan, self._places = plan, Places(plan.out)
        self._ledger = Ledger(self._places.ledger)
        backbone = load_backbone(plan.backbone)
        if backbone.fingerprint != plan.weights:
            raise CheckpointError(
                f"the weights of '{plan.backbone}' on this machine have fingerprint "
                f"{backbone.fingerprint[:12]}, the sweep's {plan.weights[:12]}; copy the same file "
                "to every node."
            )
        self._backbone, self._device, self._share = backbone, _device(device), share
        name = f"{provenance.host()} {device} {part}".strip()
        self._meter = Meter(self._places.pools, name, self._device)
        self._search_data: dict[str, SearchData] = {}
        self.reset()
        # Last: what fails above must leave no lock behind, and nothing is written before.
        self._lock = hold_orphan_lock(plan.out, plan.lease)

    def reset(self) -> None:
        """Begins with an empty pool: what ran takes up its checkpoints when it is added again."""
        self._meter.begin()
        keeping = Keeping(self._places.checkpoints, self._plan.checkpoint_seconds)
        self._pool = Pool(
            self._backbone, self._device, keeping, width=self._plan.width, share=self._share
        )

    def __len__(self) -> int:
        return len(self._pool)

    def __contains__(self, key: str) -> bool:
        return key in self._pool

    def recorded(self, key: str) -> bool:
        """Whether the ledger has the trial's result."""
        return key in self._ledger

    def at_rung(self, key: str) -> AtRung | None:
        """The rung at which a trial waits, if it does."""
        return self._pool.at_rung(key)

    @property
    def running(self) -> int:
        """Trials that have a slot or wait for one."""
        return self._pool.running

    @property
    def slots(self) -> int:
        """Trials that can run at once."""
        return self._pool.slots

    def add(self, trial: Trial, rungs: Sequence[int]) -> None:
        """Starts a trial, or takes it up again at its checkpoint."""
        self._pool.add(trial, self._open(trial), rungs)
        self._log("started", trial.key)

    def answer(self, key: str, decision: Decision) -> TrialResult | None:
        """Continues or stops a trial that waits at a rung; a stopped one's record is returned."""
        if decision == "continue":
            self._pool.proceed(key)
            return None
        return self._record(replace(self._pool.stop(key), stopping=self._plan.stopping))

    def advance(self) -> list[AtRung | TrialResult]:
        """One step of the pool; results are already in the ledger."""
        began = time.perf_counter()
        events = self._pool.advance()
        self._meter.worked(time.perf_counter() - began, self._pool)
        return [self._keep(e) if isinstance(e, Ended) else e for e in events]

    def close(self) -> None:
        """Lets the next command begin."""
        self._meter.write(self._pool)
        self._lock.close()

    def _open(self, trial: Trial) -> SearchData | FinalData:
        """What the trial may see; only final trials, and leaking ones, get a test split."""
        task, root = self._plan.suite.task(trial.task), self._plan.data_root
        if trial.reads_test:
            final = open_final(self._plan.suite.store, task, root)
            _check_identity(trial, final.identity.final)
            return final
        if trial.task not in self._search_data:
            self._search_data[trial.task] = open_search(self._plan.suite.store, task, root)
        _check_identity(trial, self._search_data[trial.task].identity)
        return self._search_data[trial.task]

    def _keep(self, ended: Ended) -> TrialResult:
        if ended.tensors is not None:
            trial = ended.result.trial
            # Before the ledger's row: a finished final trial always has its weights.
            save_tensors(
                build(trial.adapter, trial.params), ended.tensors, self._places.adapters / trial.key
            )
        return self._record(ended.result)

    def _record(self, result: TrialResult) -> TrialResult:
        self._ledger.append(result)
        self._log("recorded", result.key)
        path_of(self._places.checkpoints, result.key).unlink(missing_ok=True)
        return result

    def _log(self, event: str, key: str) -> None:
        """One line in logs/trials.log, whole even when several pools write at once."""
        line = f"{time.time():.3f} {event} {key} {os.getpid()}\n".encode()
        self._places.logs.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._places.trial_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


def _check_identity(trial: Trial, found: str) -> None:
    if found != trial.data:
        raise DataError(
            f"the data of task '{trial.task}' on this machine has fingerprint {found[:12]}, the "
            f"sweep's {trial.data[:12]}: it was prepared again since the sweep began. Give "
            "every node the same --data-root, or start a new sweep with another --out."
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            f"device '{name}' cannot be used here ({str(error).splitlines()[0]}); use "
            "--device cpu, cuda or cuda:N."
        ) from error
    return device
