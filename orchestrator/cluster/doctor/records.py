"""What the doctor asks a machine, and what it is told.

These travel between nodes whose copies of this file may differ: every field of an answer has an
immutable default, which stands for what an older copy does not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.prepared.presence import Present
from orchestrator.spec import Suite, Task
from orchestrator.storage.sharing import Marker, Sight


@dataclass(frozen=True)
class Question:
    """What a machine is to look at.

    `out` is a folder or the address of an object store, empty for none; `sign` what was left in it.
    Without a `store` no data is looked for, without a `backbone` no weights. `data_sign` was left
    in `data_root`, where data that is not prepared yet will have to be seen.
    """

    out: str = ""
    sign: Marker | None = None
    data_root: Path = Path()
    data_sign: Marker | None = None
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
class Probe:
    """What a machine says of itself. Memory and disk in bytes; `cores` may be used, of all.

    `versions` are (package, version), empty for one that is missing; `code` is (file, fingerprint).
    `driver_gpus` are the names of those that NVIDIA's driver shows, `gpus` those that torch can
    use; `gpu_problem` is torch's reason, `cuda` what it is built for (empty: for no GPUs).
    `weights` is the fingerprint of the backbone, or `weights_problem` says why there is none, and
    `weights_fetchable` that a download would help. `troubles` are looks that failed themselves.
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
    sight: Sight | None = None
    data_sight: Sight | None = None
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reach:
    """Whether tracking at `where` (without secrets) can be used.

    `problem` says why not, `doubt` what may go wrong, `fix` what to do about either.
    """

    where: str
    problem: str = ""
    doubt: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """A node of the cluster, or this machine: its probe, or the `trouble` that there is none.

    `ray_gpus` is how many Ray counts, None without Ray; `sight_problem` says how it fails to share
    the output folder, `data_problem` that of data; `ahead` is by how many seconds its clock is
    ahead of the command's.
    """

    name: str
    probe: Probe | None = None
    trouble: str = ""
    ray_gpus: float | None = None
    sight_problem: str = ""
    data_problem: str = ""
    ahead: float | None = None


@dataclass(frozen=True)
class Examination:
    """Everything that was found out. `here` is the command's own machine and environment.

    `nodes` are the cluster's, none without an address. `out_problem` is why nothing can be written
    to `out`; `locks` whether files there could be locked.
    """

    here: Machine
    nodes: tuple[Machine, ...] = ()
    address: str | None = None
    device: str = "auto"
    out: str = ""
    out_kind: str = ""
    out_problem: str = ""
    locks: str = ""
    tracking: Reach | None = None
    suite: Suite | None = None
    data_root: Path = Path()
    backbone: str = ""

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Those that would train: the cluster's nodes, or this one."""
        return self.nodes or (self.here,)

    @property
    def probes(self) -> dict[str, Probe]:
        """What was answered, by the machine's name."""
        return {m.name: m.probe for m in self.machines if m.probe is not None}
