"""Where a pool's checkpoints go, how often, and what happens while they cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.engine import checkpoint
from orchestrator.engine.training import Training
from orchestrator.errors import StorageError
from orchestrator.storage.files import storage_error
from orchestrator.storage.retry import RetryPolicy


def _nothing(path: Path) -> None:
    """A plain folder needs no more."""


@dataclass(frozen=True)
class Keeping:
    """Checkpoints in `folder`, at least `every` seconds apart (0: after every epoch; at a rung
    there always is one).

    `fetch` is called with a checkpoint's path before it is looked for, `publish` once it is
    written. While storage refuses one its trial goes on without; when `patience` is over, or where
    there is none, `StorageError`.
    """

    folder: Path
    every: float = 60.0
    patience: RetryPolicy | None = None
    fetch: Callable[[Path], None] = _nothing
    publish: Callable[[Path], None] = _nothing

    def save(self, training: Training) -> bool:
        """Writes a trial that stands at the end of an epoch; False if storage refused it."""
        try:
            self._write(training)
        except StorageError as error:
            if self.patience is None:
                raise
            self.patience.failed(error)
            return False
        if self.patience is not None:
            self.patience.succeeded()
        return True

    def restore(self, training: Training) -> bool:
        """Brings a fresh trial to its checkpoint; False if it has none."""
        self.fetch(checkpoint.path_of(self.folder, training.key))
        return checkpoint.restore(training, self.folder)

    def _write(self, training: Training) -> None:
        path = checkpoint.path_of(self.folder, training.key)
        try:
            checkpoint.write(training, self.folder)
        except OSError as error:
            raise storage_error(f"write the checkpoint '{path}'", error) from error
        self.publish(path)
