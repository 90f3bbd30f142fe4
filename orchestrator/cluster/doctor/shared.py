"""Findings on what machines share: the output folder, locks, data, weights, tracking."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.cluster.doctor.lines import Level, Line, by_value, where
from orchestrator.cluster.doctor.records import Examination, Probe
from orchestrator.storage.sharing import is_uri, listed, shown, told

SHARE = (
    "give --out a folder that all nodes see at the same path (NFS), --out s3://BUCKET/PATH, or use "
    "a cluster of one node"
)
ROOT = "give a --data-root (or $ORCHESTRATE_DATA) that all nodes see at the same path"
_MOST_TASKS = 3


def shared(found: Examination) -> list[Line]:
    """Whether what a machine writes to the output folder reaches the others."""
    if not found.out:
        return [Line("shared", "note", "not checked: give the sweep's --out")]
    place = shown(found.out)
    if found.out_problem:
        fix = "give --out a folder that you may write to"
        if is_uri(found.out):
            fix = "check the address, the credentials and the bucket's rules"
        return [Line("shared", "wrong", f"{place} cannot be written: {found.out_problem}", fix)]
    kind = f" ({found.out_kind})" if found.out_kind else ""
    if not found.nodes:
        text = f"{place}{kind} can be written; --address asks the other machines too"
        return [Line("shared", "ok", text)]
    blind = told({machine.name: machine.sight_problem for machine in found.nodes})
    sighted = [m.name for m in found.nodes if m.probe and not m.sight_problem]
    lines = []
    if sighted:
        text = f"{place}{kind} is written and read back{where(found, sighted)}"
        lines.append(Line("shared", "ok", text))
    if blind:
        lines.append(Line("shared", "wrong", f"{place} is not shared with {blind}", SHARE))
    return lines


def locks(found: Examination) -> list[Line]:
    """Whether a lock in the output folder keeps other machines out, as a sweep's lease needs."""
    if not found.locks:
        return []
    if found.locks == "refused":
        fix = "mount it with locking (NFS: `lockd`, no `nolock`), or give another --out"
        return [Line("locks", "wrong", f"{shown(found.out)} cannot lock files", fix)]
    seen = {m.name: m.probe.sight.locks for m in found.machines if m.probe and m.probe.sight}
    bad = by_value({name: state for name, state in seen.items() if state not in ("kept", "")})
    fix = "mount it with locking on every node (NFS: no `nolock`, no `local_lock`)"
    told = {"ignored": "do not see this machine's locks", "refused": "cannot lock files"}
    lines = [
        Line("locks", "wrong", f"{listed(names)}: {told[state]} in {shown(found.out)}", fix)
        for state, names in bad.items()
    ]
    kept = [name for name, state in seen.items() if state == "kept"]
    return lines or ([Line("locks", "ok", f"are kept{where(found, kept)}")] if kept else [])


def data(found: Examination) -> list[Line]:
    """Whether every machine has the suite's prepared data, the same everywhere."""
    if found.suite is None:
        return [Line("data", "note", "not checked: give --suite")]
    mine = _tasks(found.here.probe)
    missing = [task for task, fingerprint in mine.items() if not fingerprint]
    lines = [_unprepared(found, missing)] if missing else []
    lacking = by_value({n: _lacks(mine, p) for n, p in found.probes.items()})
    for why, names in lacking.items():
        text = f"{listed(names)}: {why} in {found.data_root}"
        if why and is_uri(found.out):
            lines.append(Line("data", "note", f"{text}; the sweep sends it through --out"))
        elif why:
            lines.append(Line("data", "wrong", text, f"{ROOT}, or copy it"))
    if blind := told({machine.name: machine.data_problem for machine in found.nodes}):
        # What is prepared may be all that is needed, and then a copy on each node is as good.
        level: Level = "wrong" if len(missing) == len(mine) else "warn"
        text = f"{found.data_root} is not shared with {blind}"
        lines.append(Line("data", level, text, ROOT))
    if not lines:
        same = where(found, list(found.probes), same=True)
        text = f"{found.suite.name}, {_counted(len(mine), 'task')} prepared{same}"
        lines = [Line("data", "ok", text)]
    return lines


def weights(found: Examination) -> list[Line]:
    """Whether every machine has the backbone's weights, the same everywhere."""
    if not found.backbone:
        return [Line("weights", "note", "not checked: give --suite or --backbone")]
    own = found.here.probe.weights if found.here.probe else ""
    held = {name: probe.weights for name, probe in found.probes.items() if probe.weights}
    reference = own or next(iter(held.values()), "")
    lines = [_absent(found, why, names) for why, names in _absences(found).items()]
    lines += [
        Line(
            "weights",
            "wrong",
            f"{listed(names)}: other weights of {found.backbone} ({print_[:12]}, not "
            f"{reference[:12]})",
            "copy the same file to every node, or give --backbone ARCHITECTURE@FILE on a share",
        )
        for print_, names in by_value(held).items()
        if print_ != reference
    ]
    same = [name for name, print_ in held.items() if print_ == reference]
    if same:
        text = f"{found.backbone}, {reference[:12]}{where(found, same, same=True)}"
        lines.insert(0, Line("weights", "ok", text))
    return lines


def tracking(found: Examination) -> list[Line]:
    """Whether MLflow can be reached from here, where the process that writes it runs."""
    reach = found.tracking
    if reach is None:
        text = "not checked: give --out (its own database) or --tracking-uri"
        return [Line("tracking", "note", text)]
    if reach.problem:
        return [Line("tracking", "wrong", f"{reach.where} {reach.problem}", reach.fix)]
    if reach.doubt:
        return [Line("tracking", "warn", f"{reach.where}: {reach.doubt}", reach.fix)]
    return [Line("tracking", "ok", reach.where)]


def _tasks(probe: Probe | None) -> dict[str, str]:
    """Task → fingerprint, empty for one that is not prepared."""
    return {task.task: task.fingerprint for task in probe.data} if probe else {}


def _unprepared(found: Examination, missing: list[str]) -> Line:
    """What this machine has not prepared: nothing to do where it is made by formula."""
    assert found.suite is not None
    name = found.suite.name
    which = "" if len(missing) == len(found.suite.tasks) else f" ({_some(missing)})"
    text = f"{name}{which} is not prepared in {found.data_root}; the sweep does it on first use"
    if not found.suite.variable and not found.suite.files:
        return Line("data", "note", text)
    how = f"`orchestrate data prepare {name}` does it now, from the images"
    return Line("data", "warn", text, how)


def _lacks(mine: Mapping[str, str], probe: Probe) -> str:
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
        f"{_some(tasks)} {'is' if len(tasks) == 1 else 'are'} {kind}"
        for kind, tasks in kinds.items()
    )


def _absences(found: Examination) -> dict[tuple[bool, str], list[str]]:
    problems = {
        name: (probe.weights_fetchable, probe.weights_problem)
        for name, probe in found.probes.items()
        if probe.weights_problem
    }
    return by_value(problems)


def _absent(found: Examination, why: tuple[bool, str], names: list[str]) -> Line:
    fetchable, problem = why
    if not fetchable:
        fix = "give every node the file at this path (on a share, or a copy)"
        return Line("weights", "wrong", f"{listed(names)}: {problem}", fix)
    text = f"{listed(names)}: {found.backbone} is not in the cache; it is downloaded on first use"
    fix = (
        "without a network there: copy ~/.cache/huggingface from a machine that has it, or give "
        f"--backbone {found.backbone}@FILE"
    )
    return Line("weights", "warn", text, fix)


def _some(tasks: list[str]) -> str:
    more = f" and {len(tasks) - _MOST_TASKS} more" if len(tasks) > _MOST_TASKS else ""
    return ", ".join(tasks[:_MOST_TASKS]) + more


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
