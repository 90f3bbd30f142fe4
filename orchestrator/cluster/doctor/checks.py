"""Checks of the nodes, their software and their hardware: pure functions of an `Inspection`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from orchestrator.cluster.doctor import shared_checks
from orchestrator.cluster.doctor.probe import code_digest
from orchestrator.cluster.doctor.records import (
    Finding,
    Gpu,
    Inspection,
    Level,
    Machine,
    ProbeResult,
    size,
    size_range,
)
from orchestrator.storage.addresses import location
from orchestrator.storage.sharing import by_value, name_list

GIB = 2**30
MIN_MEMORY, MIN_DISK = 2 * GIB, GIB
"""Free bytes below which there is a warning."""
MAX_CLOCK_SECONDS = 2.0
_COMMAND_ONLY = ("optuna", "mlflow")
"""Packages that the command needs and the pools on other machines do not."""


def check_all(found: Inspection) -> list[Finding]:
    """At least one finding for each subject, in the order in which they are printed."""
    return [finding for check in _CHECKS for finding in check(found)]


def summary(findings: Iterable[Finding]) -> str:
    """How many of the findings are errors and warnings."""
    levels = [finding.level for finding in findings]
    wrong, warnings = levels.count("wrong"), levels.count("warn")
    text = f"{wrong} wrong" if wrong else "nothing is wrong"
    more = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return text + more


def _cluster(found: Inspection) -> Iterator[Finding]:
    """Which nodes there are, and which of them do not answer."""
    names = [machine.name for machine in found.nodes if machine.probe]
    if names:
        answer = "node answers" if len(names) == 1 else "nodes answer"
        yield Finding("cluster", "ok", f"{len(names)} {answer}: {name_list(names)}")
    for machine in found.nodes:
        if not machine.probe:
            fix = "look at the machine: `ray status`, its load, /tmp/ray/session_latest/logs"
            if "ModuleNotFoundError" in machine.trouble or "AttributeError" in machine.trouble:
                fix = "install this version of the project there (on a cluster, `ray up` does it)"
            yield Finding("cluster", "wrong", f"{machine.name}: {machine.trouble}", fix)


def _code(found: Inspection) -> Iterator[Finding]:
    """Whether every machine runs the command's own code, and nothing hides a module."""
    mine = found.here.probe.code if found.here.probe else ()
    others = by_value({name: probe.code for name, probe in found.probes.items()})
    if not others.keys() - {mine}:
        same = found.on(list(found.probes), same=True)
        yield Finding("code", "ok", f"{code_digest(mine)}{same}")
    fix = (
        "bring the same code to every node: `ray up` again, or copy it and `ray stop`, "
        "`ray start` there"
    )
    for theirs, names in others.items():
        if theirs != mine:
            files = name_list(sorted({name for name, _ in set(mine) ^ set(theirs)}), most=3)
            text = f"{name_list(names)}: other code than this command's ({files})"
            yield Finding("code", "wrong", text, fix)
    hidden = by_value({name: probe.hidden for name, probe in found.probes.items()})
    for modules, names in hidden.items():
        for module, folder in modules:
            text = f"{name_list(names)}: '{module}' in {folder} hides the module of that name"
            fix = "rename it, or start the command with another current folder and $PYTHONPATH"
            yield Finding("code", "wrong", text, fix)


def _versions(found: Inspection) -> Iterator[Finding]:
    """Whether every machine has the command's packages."""
    mine = dict(found.here.probe.versions) if found.here.probe else {}
    others = [f for package, own in mine.items() for f in _other_versions(found, package, own)]
    installed = ", ".join(
        f"{'Python' if name == 'python' else name} {own}" for name, own in mine.items() if own
    )
    same = " here" if others else found.on(list(found.probes), same=True)
    yield Finding("versions", "ok", installed + same)
    yield from others


def _other_versions(found: Inspection, package: str, own: str) -> Iterator[Finding]:
    """One finding for each other version of a package, and one if the command lacks it."""
    if not own:
        yield _missing_package(package, "this command")
    versions = {n: dict(probe.versions).get(package, "") for n, probe in found.probes.items()}
    for theirs, names in by_value(versions).items():
        if theirs == own:
            continue
        if not theirs:
            yield _missing_package(package, name_list(names))
            continue
        level: Level = "warn" if package in _COMMAND_ONLY else "wrong"
        fix = f"`pip install {package}=={own}` there, then `ray stop`, `ray start`"
        if package == "python":
            fix = f"make their environments with Python {own}"
        text = f"{name_list(names)}: {package} {theirs}, this command has {own or 'none'}"
        yield Finding("versions", level, text, fix)


def _missing_package(package: str, whose: str) -> Finding:
    fix = "install the project there: `pip install -e .` (on a cluster, `ray up` does it)"
    return Finding("versions", "wrong", f"{whose}: {package} is not installed", fix)


def _cores(found: Inspection) -> Iterator[Finding]:
    """How many cores pools may use."""
    kinds = by_value({name: probe.cores for name, probe in found.probes.items()})
    if kinds:
        text = "; ".join(f"{count}{found.on(names)}" for count, names in kinds.items())
        yield Finding("cores", "ok", text)


def _memory(found: Inspection) -> Iterator[Finding]:
    """Whether there is memory for a pool."""
    free = {name: probe.memory_free for name, probe in found.probes.items()}
    fix = "end what uses it, or start Ray there with a smaller --object-store-memory"
    return _free_space(found, "memory", "", free, MIN_MEMORY, fix)


def _disk(found: Inspection) -> Iterator[Finding]:
    """Whether there is space in /tmp, where Ray keeps its logs, and in the output folder."""
    tmp = {name: probe.tmp_free for name, probe in found.probes.items()}
    fix = "make space: `ray stop`, then remove /tmp/ray"
    yield from _free_space(found, "disk", " in /tmp", tmp, MIN_DISK, fix)
    here = found.here.probe.out_free if found.here.probe else None
    if here is not None:
        fix, where = "make space there, or give another --out", f" in {location(found.out)}"
        yield from _free_space(found, "disk", where, {found.here.name: here}, MIN_DISK, fix)
    probe = found.here.probe
    if probe and probe.ray_problem and not found.nodes:
        yield Finding("disk", "wrong", "Ray has no place for its files", probe.ray_problem)
    if probe and probe.ray_folder and not found.nodes:
        why = "$TMPDIR cannot be used: too long for a socket, or not to be written"
        yield Finding("disk", "note", f"Ray's files go to {probe.ray_folder}; {why}")


def _free_space(
    found: Inspection, subject: str, where: str, free: dict[str, int], least: int, fix: str
) -> Iterator[Finding]:
    """One finding for all machines with enough, one for each machine with less than `least`."""
    enough = {name: count for name, count in free.items() if count >= least}
    if enough:
        whose = "" if found.here.name in enough else found.on(list(enough))
        yield Finding(subject, "ok", f"{size_range(enough.values())} free{where}{whose}")
    for name, count in free.items():
        if count < least:
            yield Finding(subject, "warn", f"{name}: only {size(count)} free{where}", fix)


def _gpus(found: Inspection) -> Iterator[Finding]:
    """Which GPUs there are, and which of them cannot be used."""
    kinds = by_value({n: (p.gpus, p.driver) for n, p in found.probes.items() if p.gpus})
    findings = [
        Finding("GPUs", "ok", f"{_described(some)}, driver {driver}{found.on(names)}")
        for (some, driver), names in kinds.items()
    ]
    for machine in found.machines:
        if machine.probe:
            findings += _unusable_gpus(machine, machine.probe)
    yield from findings or [_no_gpu(found)]


def _described(gpus: tuple[Gpu, ...]) -> str:
    return ", ".join(
        f"{count} × {gpu.name}, {size(gpu.memory)}, {'bf16' if gpu.bf16 else 'no bf16'}"
        for gpu, count in Counter(gpus).items()
    )


def _unusable_gpus(machine: Machine, probe: ProbeResult) -> Iterator[Finding]:
    """GPUs that torch cannot use or Ray does not count."""
    name, usable = machine.name, len(probe.gpus)
    if len(probe.driver_gpus) > usable:
        built = f"is built for CUDA {probe.cuda}" if probe.cuda else "is built without CUDA"
        text = (
            f"{name}: torch {built} and cannot use its {len(probe.driver_gpus)} with driver "
            f"{probe.driver}: {probe.gpu_problem or f'it sees {usable}'}"
        )
        fix = "install torch with CUDA there: https://pytorch.org/get-started/locally"
        if probe.cuda:
            fix = "install a newer driver there, or a torch for its CUDA (the same on every node)"
        yield Finding("GPUs", "wrong", text, fix)
    counted = machine.ray_gpus
    if counted is not None and counted != usable:
        text = f"{name}: Ray counts {counted:g}, torch can use {usable}"
        fix = f"start Ray there with `ray start --num-gpus={usable} …`"
        # If Ray counts more, trials would be sent to a device that does not exist.
        yield Finding("GPUs", "wrong" if counted > usable else "warn", text, fix)
    if any(not gpu.bf16 for gpu in probe.gpus):
        text = f"{name}: a GPU without bf16, which --precision auto would use"
        yield Finding("GPUs", "warn", text, "give `orchestrate sweep` --precision fp32")


def _no_gpu(found: Inspection) -> Finding:
    if not found.device.startswith("cuda"):
        return Finding("GPUs", "note", f"none{found.on(list(found.probes))}: pools use the cores")
    if found.address:
        text = "none now, and --device cuda needs some"
        fix = "wait for GPU nodes if the cluster starts them on demand"
        return Finding("GPUs", "warn", text, fix)
    return Finding("GPUs", "wrong", "none, and --device cuda needs some", "leave --device out")


def _clocks(found: Inspection) -> Iterator[Finding]:
    """Whether the nodes' clocks agree with the command's."""
    ahead = {m.name: m.ahead for m in found.nodes if m.ahead is not None}
    most = max(map(abs, ahead.values()), default=0.0)
    if ahead and most <= MAX_CLOCK_SECONDS:
        yield Finding("clocks", "ok", f"agree within {max(most, 0.01):.2f} s")
    fix = "set the time there: `sudo timedatectl set-ntp true`"
    for name, seconds in ahead.items():
        if abs(seconds) > MAX_CLOCK_SECONDS:
            how = "ahead of" if seconds > 0 else "behind"
            text = f"{name}: {abs(seconds):.1f} s {how} this machine"
            yield Finding("clocks", "warn", text, fix)


def _failed_probes(found: Inspection) -> Iterator[Finding]:
    """The probes that raised an error."""
    probes = {m.name: m.probe for m in (found.here, *found.machines) if m.probe}
    machines: dict[str, list[str]] = {}
    for name, probe in probes.items():
        for trouble in probe.troubles:
            machines.setdefault(trouble, []).append(name)
    for trouble, names in machines.items():
        text = f"{name_list(names)}: cannot check {trouble}"
        yield Finding("probe", "wrong", text, "repair that first")


_CHECKS: tuple[Callable[[Inspection], Iterator[Finding]], ...] = (
    *(_cluster, _code, _versions, _cores, _memory, _disk, _gpus, _clocks),
    *(shared_checks.shared, shared_checks.locks, shared_checks.data, shared_checks.weights),
    *(shared_checks.tracking, _failed_probes),
)
