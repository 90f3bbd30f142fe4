"""Where things lie in a sweep's output folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """The files and folders of one sweep."""

    out: Path

    @property
    def sweep(self) -> Path:
        """What is swept: the frozen Sweep with its identities."""
        return self.out / "sweep.json"

    @property
    def asks(self) -> Path:
        """The samplers' suggestions."""
        return self.out / "asks"

    @property
    def ledger(self) -> Path:
        """The results: the only source of truth."""
        return self.out / "ledger"

    @property
    def adapters(self) -> Path:
        """Trained adapters of final trials, by key."""
        return self.out / "adapters"

    @property
    def checkpoints(self) -> Path:
        """Running trials."""
        return self.out / "checkpoints"

    @property
    def registry(self) -> Path:
        """The exported best configurations."""
        return self.out / "registry"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.out / "report.html"

    @property
    def sheets(self) -> Path:
        """Contact sheets of the tasks' training images."""
        return self.out / "sheets"

    @property
    def logs(self) -> Path:
        """Logs."""
        return self.out / "logs"

    @property
    def pools(self) -> Path:
        """What the pools made of their devices: derived, nothing depends on it."""
        return self.out / "pools"

    @property
    def trial_log(self) -> Path:
        """When which process started and recorded which trial; nothing reads it back."""
        return self.logs / "trials.log"
