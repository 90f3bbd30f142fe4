"""The files and folders of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class _Entry:
    """A file or folder of a sweep, as an attribute of its `SweepPaths`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, paths: SweepPaths, owner: object) -> Path:
        return paths.out / self._name


@dataclass(frozen=True)
class SweepPaths:
    """The files and folders of one sweep.

    `out` is a folder of this machine. Where the sweep lies in an object store, at `uri`, it is this
    machine's working copy: only the ledger is not in it.
    """

    out: Path
    uri: str = ""

    sweep = _Entry("sweep.json")
    """The frozen Sweep with its identities."""
    asks = _Entry("asks")
    """The samplers' suggestions."""
    adapters = _Entry("adapters")
    """Trained adapters of final trials, by key."""
    predictions = _Entry("predictions")
    """Logits of replicates and final trials on their evaluation splits, by key."""
    checkpoints = _Entry("checkpoints")
    """Checkpoints of running trials."""
    registry = _Entry("registry")
    """The exported best configurations."""
    report = _Entry("report.html")
    """The page for people."""
    sheets = _Entry("sheets")
    """Contact sheets of the tasks' training images."""
    data = _Entry("data")
    """Prepared tasks, for machines that share nothing but the object store."""
    logs = _Entry("logs")
    """Logs."""
    pools = _Entry("pools")
    """Device utilisation of the pools: derived, nothing depends on it."""
    trial_log = _Entry("logs/trials.log")
    """When which process started and recorded which trial; nothing reads it back."""

    @property
    def name(self) -> str:
        """The folder or address as a person would name it, without options."""
        return self.uri.partition("?")[0] or str(self.out)

    @property
    def ledger(self) -> Path | str:
        """The results: the only source of truth. A folder, or the address of one."""
        return under(self.uri, "ledger") if self.uri else self.out / "ledger"

    def predictions_of(self, key: str) -> Path:
        """The file of a trial's logits; its SHA-256 is in the ledger's row."""
        return self.predictions / f"{key}.safetensors"

    def trained(self) -> set[str]:
        """The keys of the final trials whose adapters are complete here."""
        return {path.parent.name for path in self.adapters.glob("*/adapter_config.json")}

    def shown(self, path: Path) -> str:
        """A file or folder of the sweep as a person would name it."""
        return under(self.name, path.relative_to(self.out).as_posix()) if self.uri else str(path)


def under(uri: str, name: str) -> str:
    """The address of `name` below `uri`, whose options stay."""
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"
