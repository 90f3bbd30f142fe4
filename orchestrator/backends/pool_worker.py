"""The process that owns a pool: gives it data and writes its results. Used by both backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from adapters import build
from adapters.storage import CONFIG, WEIGHTS, save_tensors
from orchestrator import provenance
from orchestrator.backbones import load_backbone
from orchestrator.backends.pool_config import Decision, PoolConfig
from orchestrator.backends.pool_records import TrialLog, UtilisationLog
from orchestrator.data.prepared import transfer
from orchestrator.data.splits import FinalData, SearchData, open_final, open_search
from orchestrator.engine import memory
from orchestrator.engine.checkpoint import CheckpointStore, path_of
from orchestrator.engine.pool import AtRung, Ended, Pool
from orchestrator.errors import BackendError, CheckpointError, DataError, StorageError
from orchestrator.results import predictions
from orchestrator.results.ledger import Ledger
from orchestrator.spec import Trial, TrialResult, fold_of
from orchestrator.storage.files import storage_error
from orchestrator.storage.retry import RetryPolicy, log
from orchestrator.storage.sweep_lock import Worker
from orchestrator.storage.sweep_storage import SweepStorage


class PoolWorker:
    """A `pool` with its data and its records. A result is in the ledger before it is reported.

    Args:
        config: the sweep, and the command that this process works for.
        device: as torch names it; `BackendError` if it cannot be used.
        threads: of torch; None leaves torch's own number.
        part: tells this pool from the others of the same device.
        share: of the device's free memory, the part that is this pool's.
        notify: called with a sentence when storage fails and is retried, and when it works again.

    Raises `CheckpointError` if the weights here are not the sweep's, `SweepConflict` if another
    command has the sweep.
    """

    def __init__(
        self,
        config: PoolConfig,
        device: str,
        threads: int | None = None,
        part: str = "",
        share: float = 1.0,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        memory.keep_freed()
        self._config, self._storage = config, SweepStorage.at(config.uri or config.out)
        self._paths = self._storage.paths
        self._records = RetryPolicy(config.storage_timeout, notify)
        self._checkpoints = RetryPolicy(config.storage_timeout, notify)
        self._ledger = Ledger(self._paths.ledger)
        backbone = load_backbone(config.backbone)
        if backbone.fingerprint != config.weights:
            raise CheckpointError(
                f"the weights of '{config.backbone}' on this machine have fingerprint "
                f"{backbone.fingerprint[:12]}, the sweep's {config.weights[:12]}; copy the same "
                "file to every node."
            )
        self._backbone, self._device, self._share = backbone, _device(device), share
        name = f"{provenance.host()} {device} {part}".strip()
        self._utilisation = UtilisationLog(self._storage, name, self._device)
        self._trial_log = TrialLog(self._storage)
        self._search_data: dict[str, SearchData] = {}
        self.reset()
        # Last: a failure above must leave no lock behind, and nothing is written before.
        self._lock = self._records.call(lambda: Worker(self._storage, config.lease))

    def reset(self) -> None:
        """Start with an empty pool; a trial that is added again continues at its checkpoint."""
        self._utilisation.begin()
        checkpoints = CheckpointStore(
            self._paths.checkpoints,
            self._config.checkpoint_seconds,
            self._checkpoints,
            self._storage.download,
            self._storage.upload,
        )
        self.pool = Pool(
            self._backbone, self._device, checkpoints, width=self._config.width, share=self._share
        )

    def recorded(self, key: str) -> TrialResult | None:
        """The trial's result in the ledger, if it has one."""
        return self._records.call(lambda: self._ledger.result(key))

    def add(self, trial: Trial, rungs: Sequence[int]) -> None:
        """Start a trial, or continue it at its checkpoint; it reports after the epochs `rungs`."""
        self._records.call(lambda: self.pool.add(trial, self._open(trial), rungs))
        self._trial_log.write("started", trial.key, self.pool.epoch(trial.key))

    def answer(self, key: str, decision: Decision) -> TrialResult | None:
        """Continue or stop a trial that waits at a rung; returns a stopped trial's result."""
        if decision == "continue":
            self.pool.proceed(key)
            return None
        return self._record(replace(self.pool.stop(key), stopping=self._config.stopping))

    def advance(self) -> list[AtRung | TrialResult]:
        """Train one step; results are in the ledger when this returns.

        `SweepConflict` if another command has taken the sweep over.
        """
        self._lock.check()
        began = time.perf_counter()
        events = self.pool.advance()
        self._utilisation.worked(time.perf_counter() - began, self.pool)
        return [self._keep(e) if isinstance(e, Ended) else e for e in events]

    def close(self) -> None:
        """Write the last records and release the lock, so that the next command can start."""
        self._utilisation.write(self.pool)
        self._trial_log.upload()
        self._lock.close()

    def _open(self, trial: Trial) -> SearchData | FinalData:
        """The splits that the trial may read: final and leaking trials get test, others do not."""
        suite, task = self._config.suite, self._config.suite.task(trial.task)

        def root() -> Path:
            """Where the task is prepared; it is downloaded from an object store if need be."""
            return transfer.local_root(self._storage, suite, task, trial, self._config.data_root)

        if trial.reads_test:
            final = open_final(suite.store, task, root())
            _check_identity(trial, final.identity.final)
            return final
        if trial.task not in self._search_data:
            self._search_data[trial.task] = open_search(suite.store, task, root())
        data = self._search_data[trial.task]
        if trial.stage == "replicate" and trial.data == fold_of(data.identity, trial.seed):
            return data.fold(trial.seed)
        _check_identity(trial, data.identity)
        return data

    def _keep(self, ended: Ended) -> TrialResult:
        result = ended.result
        # Before the ledger's row: a finished final trial always has its weights and predictions.
        if files := self._records.call(lambda: self._save(ended)):
            result = replace(result, files=files)
        return self._record(result)

    def _save(self, ended: Ended) -> dict[str, str]:
        """Write the trained adapter and the logits, if there are any; the files' checksums."""
        trial, files = ended.result.trial, {}
        folder, path = self._paths.adapters / trial.key, self._paths.predictions_of(trial.key)
        try:
            if ended.tensors is not None:
                files = save_tensors(build(trial.adapter, trial.params), ended.tensors, folder)
                self._storage.upload(folder / WEIGHTS, folder / CONFIG)
            if ended.logits is not None and ended.labels is not None:
                logits, labels = ended.logits.numpy(), ended.labels.numpy()
                files[predictions.FILE] = predictions.save(logits, labels, path)
                self._storage.upload(path)
        except OSError as error:
            raise storage_error(f"write the results of trial {trial.key}", error) from error
        return files

    def _record(self, result: TrialResult) -> TrialResult:
        self._records.call(lambda: self._append(result))
        self._trial_log.write("recorded", result.key, result.epochs_run)
        try:
            self._storage.remove(path_of(self._paths.checkpoints, result.key))
        except (OSError, StorageError) as error:  # never read again: the trial has its row
            log.warning("the checkpoint of %s is not removed: %s", result.key, error)
        return result

    def _append(self, result: TrialResult) -> None:
        self._lock.check(now=True)
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
