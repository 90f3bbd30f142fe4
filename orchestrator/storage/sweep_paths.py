"""The files and folders of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepPaths:
    """The files and folders of one sweep.

    `out` is a folder of this machine. Where the sweep lies in an object store, at `uri`, it is this
    machine's working copy: only the ledger is not in it.
    """

    out: Path
    uri: str = ""

    @property
    def name(self) -> str:
        """The folder or address as a person would name it, without options."""
        return self.uri.partition("?")[0] or str(self.out)

    @property
    def sweep(self) -> Path:
        """The frozen Sweep with its identities."""
        return self.out / "sweep.json"

    @property
    def asks(self) -> Path:
        """The samplers' suggestions."""
        return self.out / "asks"

    @property
    def ledger(self) -> Path | str:
        """The results: the only source of truth. A folder, or the address of one."""
        return under(self.uri, "ledger") if self.uri else self.out / "ledger"

    @property
    def adapters(self) -> Path:
        """Trained adapters of final trials, by key."""
        return self.out / "adapters"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of running trials."""
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
    def data(self) -> Path:
        """Prepared tasks, for machines that share nothing but the object store."""
        return self.out / "data"

    @property
    def logs(self) -> Path:
        """Logs."""
        return self.out / "logs"

    @property
    def pools(self) -> Path:
        """Device utilisation of the pools: derived, nothing depends on it."""
        return self.out / "pools"

    @property
    def trial_log(self) -> Path:
        """When which process started and recorded which trial; nothing reads it back."""
        return self.logs / "trials.log"

    def shown(self, path: Path) -> str:
        """A file or folder of the sweep as a person would name it."""
        return under(self.name, path.relative_to(self.out).as_posix()) if self.uri else str(path)


def under(uri: str, name: str) -> str:
    """The address of `name` below `uri`, whose options stay."""
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"
