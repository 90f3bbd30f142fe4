"""Findings on machines: cores, memory, disks, GPUs, clocks."""

from __future__ import annotations

from orchestrator.cluster.doctor.lines import Line, by_value, size, span, where
from orchestrator.cluster.doctor.records import Examination, Gpu, Machine, Probe
from orchestrator.storage.sharing import listed, shown

GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 2 * GIB, GIB
"""Bytes below which there is a warning."""
MOST_SECONDS = 2.0
"""By which clocks may differ."""


def cores(found: Examination) -> list[Line]:
    """How many cores pools may use."""
    kinds = by_value({name: probe.cores for name, probe in found.probes.items()})
    if len(kinds) == 1:
        return [Line("cores", "ok", f"{next(iter(kinds))}{where(found, list(found.probes))}")]
    told = "; ".join(f"{count} on {listed(names)}" for count, names in kinds.items())
    return [Line("cores", "ok", told)] if kinds else []


def memory(found: Examination) -> list[Line]:
    """Whether there is memory for a pool."""
    free = {name: probe.memory_free for name, probe in found.probes.items()}
    fix = "end what uses it, or start Ray there with a smaller --object-store-memory"
    return _amounts(found, "memory", "", free, LEAST_MEMORY, fix)


def disk(found: Examination) -> list[Line]:
    """Whether there is space in /tmp, where Ray keeps its logs, and in the output folder."""
    tmp = {name: probe.tmp_free for name, probe in found.probes.items()}
    lines = _amounts(found, "disk", " in /tmp", tmp, LEAST_DISK, "make space: `ray stop` and rm")
    here = found.here.probe.out_free if found.here.probe else None
    if here is not None:
        fix = "make space there, or give another --out"
        place = f" in {shown(found.out)}"
        lines += _amounts(found, "disk", place, {found.here.name: here}, LEAST_DISK, fix)
    return lines


def gpus(found: Examination) -> list[Line]:
    """Which GPUs there are, and which of them cannot be used."""
    lines = _usable(found)
    for machine in found.machines:
        lines += _unusable(machine) if machine.probe else []
    if not lines:
        lines = [_none(found)]
    return lines


def clocks(found: Examination) -> list[Line]:
    """Whether the nodes' clocks agree with the command's."""
    ahead = {m.name: m.ahead for m in found.nodes if m.ahead is not None}
    if not ahead:
        return []
    wrong = [
        Line(
            "clocks",
            "warn",
            f"{name}: {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine",
            "set the time there: `sudo timedatectl set-ntp true`",
        )
        for name, seconds in ahead.items()
        if abs(seconds) > MOST_SECONDS
    ]
    most = max(map(abs, ahead.values()))
    return wrong or [Line("clocks", "ok", f"agree within {max(most, 0.01):.2f} s")]


def _amounts(
    found: Examination, subject: str, place: str, free: dict[str, int], least: int, fix: str
) -> list[Line]:
    """One line for all that is enough, one for each machine with less than `least`."""
    few = {name: count for name, count in free.items() if count < least}
    enough = {name: count for name, count in free.items() if name not in few}
    lines = []
    if enough:
        whose = "" if found.here.name in enough else where(found, list(enough))
        lines.append(Line(subject, "ok", f"{span(enough.values())} free{place}{whose}"))
    return lines + [
        Line(subject, "warn", f"{name}: only {size(count)} free{place}", fix)
        for name, count in few.items()
    ]


def _usable(found: Examination) -> list[Line]:
    """Machines with the same GPUs share a line."""
    kinds = by_value({n: (p.gpus, p.driver) for n, p in found.probes.items() if p.gpus})
    return [
        Line("GPUs", "ok", f"{_described(list(some))}, driver {driver}{where(found, names)}")
        for (some, driver), names in kinds.items()
    ]


def _described(some: list[Gpu]) -> str:
    kinds = by_value({str(index): gpu for index, gpu in enumerate(some)})
    return ", ".join(
        f"{len(which)} × {gpu.name}, {size(gpu.memory)}, {'bf16' if gpu.bf16 else 'no bf16'}"
        for gpu, which in kinds.items()
    )


def _unusable(machine: Machine) -> list[Line]:
    """GPUs that torch or Ray leaves out."""
    assert machine.probe is not None
    probe, lines = machine.probe, []
    if len(probe.driver_gpus) > len(probe.gpus):
        lines.append(Line("GPUs", "wrong", _left_out(machine.name, probe), _repair(probe)))
    counted = machine.ray_gpus
    if counted is not None and counted != len(probe.gpus):
        text = f"{machine.name}: Ray counts {counted:g}, torch can use {len(probe.gpus)}"
        how = f"start Ray there with `ray start --num-gpus={len(probe.gpus)} …`"
        # More than there are: trials would be sent to a device that does not exist.
        lines.append(Line("GPUs", "wrong" if counted > len(probe.gpus) else "warn", text, how))
    if any(not gpu.bf16 for gpu in probe.gpus):
        text = f"{machine.name}: a GPU without bf16, which --precision auto would take"
        lines.append(Line("GPUs", "warn", text, "give `orchestrate sweep` --precision fp32"))
    return lines


def _left_out(name: str, probe: Probe) -> str:
    count, driver = len(probe.driver_gpus), probe.driver
    why = probe.gpu_problem or f"it sees {len(probe.gpus)}"
    built = f"is built for CUDA {probe.cuda}" if probe.cuda else "is built without CUDA"
    return f"{name}: torch {built} and cannot use its {count} with driver {driver}: {why}"


def _repair(probe: Probe) -> str:
    if not probe.cuda:
        return "install torch with CUDA there: https://pytorch.org/get-started/locally"
    return "install a newer driver there, or a torch for its CUDA (the same on every node)"


def _none(found: Examination) -> Line:
    if not found.device.startswith("cuda"):
        return Line("GPUs", "note", f"none{where(found, list(found.probes))}: pools use the cores")
    if found.address:
        text = "none now, and --device cuda needs some"
        return Line("GPUs", "warn", text, "wait for GPU nodes if the cluster starts them on demand")
    return Line("GPUs", "wrong", "none, and --device cuda needs some", "leave --device out")
