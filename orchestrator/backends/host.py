"""The process that owns a pool: hands it data, keeps its results. Used by both backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from safetensors import SafetensorError

from adapters import build
from adapters.storage import CONFIG, WEIGHTS, save_tensors
from orchestrator import provenance
from orchestrator.backbones import load_backbone
from orchestrator.backends.meter import Meter
from orchestrator.backends.notes import TrialLog, publisher
from orchestrator.backends.plan import Decision, HostPlan
from orchestrator.data.prepared import travel
from orchestrator.data.splits import FinalData, SearchData, open_final, open_search
from orchestrator.engine import memory
from orchestrator.engine.checkpoint import path_of
from orchestrator.engine.keeping import Keeping
from orchestrator.engine.pool import AtRung, Ended, Pool
from orchestrator.errors import BackendError, CheckpointError, DataError, StorageError
from orchestrator.results.ledger import Ledger
from orchestrator.spec import Trial, TrialResult
from orchestrator.storage.files import storage_error
from orchestrator.storage.retry import RetryPolicy, log
from orchestrator.storage.sweep_lock import Worker
from orchestrator.storage.sweep_storage import SweepStorage


class PoolHost:
    """A pool with its data and its records: a result is in the ledger before anyone hears of it.

    `part` tells it from the other pools of the device, of whose memory `share` is its own. While
    storage refuses what must be written it tries again, for as long as the plan says; `say` hears
    of that.
    """

    def __init__(
        self,
        plan: HostPlan,
        device: str,
        threads: int | None = None,
        part: str = "",
        share: float = 1.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        memory.keep_freed()
        self._plan, self._storage = plan, SweepStorage.at(plan.uri or plan.out)
        self._paths = self._storage.paths
        self._records = RetryPolicy(plan.storage_patience, say)
        self._checkpoints = RetryPolicy(plan.storage_patience, say)
        self._ledger = Ledger(self._paths.ledger)
        backbone = load_backbone(plan.backbone)
        if backbone.fingerprint != plan.weights:
            raise CheckpointError(
                f"the weights of '{plan.backbone}' on this machine have fingerprint "
                f"{backbone.fingerprint[:12]}, the sweep's {plan.weights[:12]}; copy the same file "
                "to every node."
            )
        self._backbone, self._device, self._share = backbone, _device(device), share
        name = f"{provenance.host()} {device} {part}".strip()
        self._meter = Meter(self._paths.pools, name, self._device, publisher(self._storage))
        self._log = TrialLog(self._storage)
        self._search_data: dict[str, SearchData] = {}
        self.reset()
        # Last: what fails above must leave no lock behind, and nothing is written before.
        self._worker = self._records.call(lambda: Worker(self._storage, plan.lease))

    def reset(self) -> None:
        """Begins with an empty pool: what ran takes up its checkpoints when it is added again."""
        self._meter.begin()
        keeping = Keeping(
            self._paths.checkpoints,
            self._plan.checkpoint_seconds,
            self._checkpoints,
            self._storage.download,
            self._storage.upload,
        )
        self._pool = Pool(
            self._backbone, self._device, keeping, width=self._plan.width, share=self._share
        )

    def __len__(self) -> int:
        return len(self._pool)

    def __contains__(self, key: str) -> bool:
        return key in self._pool

    def recorded(self, key: str) -> bool:
        """Whether the ledger has the trial's result."""
        return self._records.call(lambda: key in self._ledger)

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
        self._records.call(lambda: self._pool.add(trial, self._open(trial), rungs))
        self._log.note("started", trial.key, self._pool.epoch(trial.key))

    def answer(self, key: str, decision: Decision) -> TrialResult | None:
        """Continues or stops a trial that waits at a rung; a stopped one's record is returned."""
        if decision == "continue":
            self._pool.proceed(key)
            return None
        return self._record(replace(self._pool.stop(key), stopping=self._plan.stopping))

    def advance(self) -> list[AtRung | TrialResult]:
        """One step of the pool; results are already in the ledger. `SweepConflict` where another
        command has taken the sweep over.
        """
        self._worker.check()
        began = time.perf_counter()
        events = self._pool.advance()
        self._meter.worked(time.perf_counter() - began, self._pool)
        return [self._keep(e) if isinstance(e, Ended) else e for e in events]

    def close(self) -> None:
        """Lets the next command begin."""
        self._meter.write(self._pool)
        self._log.publish()
        self._worker.close()

    def _open(self, trial: Trial) -> SearchData | FinalData:
        """What the trial may see; only final trials, and leaking ones, get a test split."""
        suite, task = self._plan.suite, self._plan.suite.task(trial.task)
        if trial.reads_test:
            root = travel.root_of(
                self._storage, suite, task, trial.data, True, self._plan.data_root
            )
            final = open_final(suite.store, task, root)
            _check_identity(trial, final.identity.final)
            return final
        if trial.task not in self._search_data:
            root = travel.root_of(
                self._storage, suite, task, trial.data, False, self._plan.data_root
            )
            self._search_data[trial.task] = open_search(suite.store, task, root)
        _check_identity(trial, self._search_data[trial.task].identity)
        return self._search_data[trial.task]

    def _keep(self, ended: Ended) -> TrialResult:
        if ended.tensors is not None:
            # Before the ledger's row: a finished final trial always has its weights.
            self._records.call(lambda: self._save(ended))
        return self._record(ended.result)

    def _save(self, ended: Ended) -> None:
        trial = ended.result.trial
        assert ended.tensors is not None
        folder = self._paths.adapters / trial.key
        try:
            save_tensors(build(trial.adapter, trial.params), ended.tensors, folder)
        except (OSError, SafetensorError) as error:  # the library's own, where the disk is full
            raise storage_error(f"write the adapter '{folder}'", error) from error
        self._storage.upload(folder / WEIGHTS, folder / CONFIG)

    def _record(self, result: TrialResult) -> TrialResult:
        self._records.call(lambda: self._append(result))
        self._log.note("recorded", result.key, result.epochs_run)
        try:
            self._storage.remove(path_of(self._paths.checkpoints, result.key))
        except (OSError, StorageError) as error:  # never read again: the trial has its row
            log.warning("the checkpoint of %s stays: %s", result.key, error)
        return result

    def _append(self, result: TrialResult) -> None:
        self._worker.check(now=True)
        self._ledger.append(result)


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
