"""Checks of what machines share: output folder, locks, data, weights, tracking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.cluster.doctor.records import Finding, Inspection, Level, ProbeResult
from orchestrator.storage.addresses import location
from orchestrator.storage.sharing import by_value, describe_problems, is_uri, name_list

SHARE = (
    "give --out a folder that all nodes see at the same path (NFS), --out s3://BUCKET/PATH, or use "
    "a cluster of one node"
)
ROOT = "give a --data-root (or $ORCHESTRATE_DATA) that all nodes see at the same path"


def shared(found: Inspection) -> Iterator[Finding]:
    """Whether what a machine writes to the output folder reaches the others."""
    out, kind = location(found.out), f" ({found.out_kind})" if found.out_kind else ""
    if not found.out:
        yield Finding("shared", "note", "not checked: give the sweep's --out")
    elif found.out_problem:
        fix = "give --out a folder that you may write to"
        if is_uri(found.out):
            fix = "check the address, the credentials and the bucket's rules"
        yield Finding("shared", "wrong", f"{out} cannot be written: {found.out_problem}", fix)
    elif not found.nodes:
        text = f"{out}{kind} can be written; --address asks the other machines too"
        yield Finding("shared", "ok", text)
    else:
        if sharing := [m.name for m in found.nodes if m.probe and not m.out_problem]:
            text = f"{out}{kind} is written and read back{found.on(sharing)}"
            yield Finding("shared", "ok", text)
        if unshared := describe_problems({m.name: m.out_problem for m in found.nodes}):
            yield Finding("shared", "wrong", f"{out} is not shared with {unshared}", SHARE)


def locks(found: Inspection) -> Iterator[Finding]:
    """Whether a lock in the output folder keeps other machines out, as a sweep's lease needs."""
    where = location(found.out)
    if found.locks == "refused":
        fix = "mount it with locking (NFS: `lockd`, no `nolock`), or give another --out"
        yield Finding("locks", "wrong", f"{where} cannot lock files", fix)
    if found.locks in ("", "refused"):
        return
    seen: dict[str, str] = {
        m.name: m.probe.out_reply.locks for m in found.machines if m.probe and m.probe.out_reply
    }
    by_state = by_value(seen)
    fix = "mount it with locking on every node (NFS: no `nolock`, no `local_lock`)"
    problems = {"ignored": "do not see this machine's locks", "refused": "cannot lock files"}
    for state, problem in problems.items():
        if names := by_state.get(state):
            text = f"{name_list(names)}: {problem} in {where}"
            yield Finding("locks", "wrong", text, fix)
    if "kept" in by_state and not problems.keys() & by_state.keys():
        yield Finding("locks", "ok", f"are kept{found.on(by_state['kept'])}")


def data(found: Inspection) -> Iterator[Finding]:
    """Whether every machine has the suite's prepared data, the same everywhere."""
    if found.suite is None:
        yield Finding("data", "note", "not checked: give --suite")
        return
    mine = _tasks(found.here.probe)
    missing = [task for task, fingerprint in mine.items() if not fingerprint]
    findings = [_unprepared(found, missing)] if missing else []
    lacking = by_value({n: _lacks(mine, p) for n, p in found.probes.items()})
    for why, names in lacking.items():
        text = f"{name_list(names)}: {why} in {found.data_root}"
        if why and is_uri(found.out):
            findings.append(Finding("data", "note", f"{text}; the sweep sends it through --out"))
        elif why:
            findings.append(Finding("data", "wrong", text, f"{ROOT}, or copy it"))
    if unshared := describe_problems(
        {machine.name: machine.data_problem for machine in found.nodes}
    ):
        # What is prepared may be all that is needed, and then a copy on each node is as good.
        level: Level = "wrong" if len(missing) == len(mine) else "warn"
        text = f"{found.data_root} is not shared with {unshared}"
        findings.append(Finding("data", level, text, ROOT))
    if not findings:
        same = found.on(list(found.probes), same=True)
        tasks = "1 task" if len(mine) == 1 else f"{len(mine)} tasks"
        text = f"{found.suite.name}, {tasks} prepared{same}"
        findings = [Finding("data", "ok", text)]
    yield from findings


def weights(found: Inspection) -> Iterator[Finding]:
    """Whether every machine has the backbone's weights, the same everywhere."""
    if not found.backbone:
        yield Finding("weights", "note", "not checked: give --suite or --backbone")
        return
    own = found.here.probe.weights if found.here.probe else ""
    held = {name: probe.weights for name, probe in found.probes.items() if probe.weights}
    reference = own or next(iter(held.values()), "")
    lacking = {
        name: (probe.weights_fetchable, probe.weights_problem)
        for name, probe in found.probes.items()
        if probe.weights_problem
    }
    if same := [name for name, fingerprint in held.items() if fingerprint == reference]:
        text = f"{found.backbone}, {reference[:12]}{found.on(same, same=True)}"
        yield Finding("weights", "ok", text)
    for why, names in by_value(lacking).items():
        yield _absent(found, *why, names)
    fix = "copy the same file to every node, or give --backbone ARCHITECTURE@FILE on a share"
    for other, names in by_value(held).items():
        if other != reference:
            text = f"{name_list(names)}: other weights of {found.backbone} "
            text += f"({other[:12]}, not {reference[:12]})"
            yield Finding("weights", "wrong", text, fix)


def tracking(found: Inspection) -> Iterator[Finding]:
    """Whether MLflow can be reached from here, where the process that writes it runs."""
    status = found.tracking
    if status is None:
        text = "not checked: give --out (its own database) or --tracking-uri"
        yield Finding("tracking", "note", text)
    elif status.problem:
        yield Finding("tracking", "wrong", f"{status.where} {status.problem}", status.fix)
    elif status.risk:
        yield Finding("tracking", "warn", f"{status.where}: {status.risk}", status.fix)
    else:
        yield Finding("tracking", "ok", status.where)


def _tasks(probe: ProbeResult | None) -> dict[str, str]:
    """Task → fingerprint, empty for one that is not prepared."""
    return {task.task: task.fingerprint for task in probe.data} if probe else {}


def _unprepared(found: Inspection, missing: list[str]) -> Finding:
    """What this machine has not prepared: nothing to do where it is made by formula."""
    assert found.suite is not None
    name = found.suite.name
    which = "" if len(missing) == len(found.suite.tasks) else f" ({name_list(missing)})"
    text = f"{name}{which} is not prepared in {found.data_root}; the sweep does it on first use"
    if not found.suite.variable and not found.suite.files:
        return Finding("data", "note", text)
    fix = f"`orchestrate data prepare {name}` does it now, from the images"
    return Finding("data", "warn", text, fix)


def _lacks(mine: Mapping[str, str], probe: ProbeResult) -> str:
    """What a machine lacks of the data that the command has, in words; empty if nothing."""
    problems = {task.task: task.problem for task in probe.data}
    theirs = _tasks(probe)
    differing = [task for task, own in mine.items() if own and theirs.get(task, "") != own]
    if not differing:
        return ""
    kinds = by_value({task: problems.get(task) or "with another fingerprint" for task in differing})
    if len(differing) == len(mine) > 1 and len(kinds) == 1:
        return f"all {len(mine)} tasks are {next(iter(kinds))}"
    return "; ".join(
        f"{name_list(tasks)} {'is' if len(tasks) == 1 else 'are'} {kind}"
        for kind, tasks in kinds.items()
    )


def _absent(found: Inspection, fetchable: bool, problem: str, names: list[str]) -> Finding:
    if not fetchable:
        fix = "give every node the file at this path (on a share, or a copy)"
        return Finding("weights", "wrong", f"{name_list(names)}: {problem}", fix)
    text = (
        f"{name_list(names)}: {found.backbone} is not in the cache; it is downloaded on first use"
    )
    fix = (
        "without a network there: copy ~/.cache/huggingface from a machine that has it, or give "
        f"--backbone {found.backbone}@FILE"
    )
    return Finding("weights", "warn", text, fix)
