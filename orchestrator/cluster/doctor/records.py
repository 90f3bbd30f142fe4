"""What a machine is asked, what it reports, and the findings of the checks.

Requests and reports travel between nodes whose copies of this file may differ: every field of a
report has an immutable default, which stands for what an older copy does not report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.data.prepared.store import Present
from orchestrator.spec import Suite, Task
from orchestrator.storage.sharing import Marker, MarkerReply, name_list

Level = Literal["ok", "note", "warn", "wrong"]
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class ProbeRequest:
    """What one machine should report.

    `out` is a folder or the address of an object store, empty for none; `out_marker` is what the
    command wrote there. Data is checked only with a `store`, weights only with a `backbone`.
    `data_marker` is in `data_root`, set if the sweep will prepare data there for all nodes.
    """

    out: str = ""
    out_marker: Marker | None = None
    data_root: Path = Path()
    data_marker: Marker | None = None
    store: str = ""
    tasks: tuple[Task, ...] = ()
    backbone: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU; memory in bytes."""

    name: str = ""
    memory: int = 0
    bf16: bool = False


@dataclass(frozen=True)
class ProbeResult:
    """What a machine reports. Memory and disk in bytes; `cores` are those this process may use.

    `versions` are (package, version), the version empty if missing; `code` is (file, fingerprint).
    `driver_gpus` are the names that NVIDIA's driver lists, `gpus` those that torch can use;
    `gpu_problem` is torch's error, `cuda` the version torch is built for (empty: none).
    `weights` is the fingerprint of the backbone, or `weights_problem` the reason that there is
    none; `weights_fetchable` says that a download would provide them. `troubles` are probes that
    raised an error. `hidden` are modules that a file in a folder of the import path hides, as
    (module, folder); `ray_folder` is where a local cluster's files go if not where Ray would put
    them, or `ray_problem` why they can go nowhere.
    """

    versions: tuple[tuple[str, str], ...] = ()
    code: tuple[tuple[str, str], ...] = ()
    cores: int = 0
    memory_free: int = 0
    tmp_free: int = 0
    out_free: int | None = None
    driver: str = ""
    driver_gpus: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str = ""
    cuda: str = ""
    data: tuple[Present, ...] = ()
    weights: str = ""
    weights_problem: str = ""
    weights_fetchable: bool = False
    out_reply: MarkerReply | None = None
    data_reply: MarkerReply | None = None
    troubles: tuple[str, ...] = ()
    hidden: tuple[tuple[str, str], ...] = ()
    ray_folder: str = ""
    ray_problem: str = ""


@dataclass(frozen=True)
class TrackingStatus:
    """Whether MLflow at `where` (an address without secrets) can be used.

    `problem` is why it cannot, `risk` what may go wrong, `fix` what to do about either.
    """

    where: str
    problem: str = ""
    risk: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """A node of the cluster, or this machine: its report, or the `trouble` why there is none.

    `ray_gpus` is the number of GPUs that Ray counts, None without Ray. `out_problem` and
    `data_problem` say why the node does not share the output folder and the data folder; `ahead`
    is by how many seconds its clock is ahead of the command's.
    """

    name: str
    probe: ProbeResult | None = None
    trouble: str = ""
    ray_gpus: float | None = None
    out_problem: str = ""
    data_problem: str = ""
    ahead: float | None = None


@dataclass(frozen=True)
class DoctorOptions:
    """The options of `orchestrate doctor`. `out` is absolute or an address, empty for none."""

    address: str | None = None
    device: str = "auto"
    out: str = ""
    suite: Suite | None = None
    backbone: str = ""
    data_root: Path = Path()
    tracking_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Inspection(DoctorOptions):
    """All reports, the input of the checks. `here` is the command's own machine and environment.

    `nodes` are the cluster's, none without an address. `out_problem` is why nothing can be written
    to `out`; `locks` is whether files there can be locked.
    """

    here: Machine
    nodes: tuple[Machine, ...] = ()
    out_kind: str = ""
    out_problem: str = ""
    locks: str = ""
    tracking: TrackingStatus | None = None

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines that would train: the cluster's nodes, or this one."""
        return self.nodes or (self.here,)

    @property
    def probes(self) -> dict[str, ProbeResult]:
        """Machine name → report, of the machines that answered."""
        return {m.name: m.probe for m in self.machines if m.probe is not None}

    def on(self, names: Sequence[str], same: bool = False) -> str:
        """` on every node`, or ` on ` the nodes of these names; empty without a cluster.

        `same` adds that they agree, if there is more than one.
        """
        if not self.nodes:
            return ""
        alike = ", the same" if same and len(names) > 1 else ""
        every = len(names) == len(self.nodes) > 1
        return f"{alike} on every node" if every else f"{alike} on {name_list(names)}"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output: subject, level, what was found and what to do about it.

    `note` is something that was not checked, or that needs no action.
    """

    subject: str
    level: Level
    text: str
    fix: str = ""


def size(count: int) -> str:
    """A number of bytes with its unit, such as `1.5 KiB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"


def size_range(counts: Iterable[int]) -> str:
    """The smallest and the largest of some sizes."""
    found = sorted(counts)
    low, high = size(found[0]), size(found[-1])
    return low if low == high else f"{low} to {high}"
