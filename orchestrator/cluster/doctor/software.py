"""Findings on what runs: the cluster itself, the project's code, the packages."""

from __future__ import annotations

from orchestrator.cluster.doctor import code as files
from orchestrator.cluster.doctor.lines import Level, Line, by_value, where
from orchestrator.cluster.doctor.records import Examination, Probe
from orchestrator.storage.sharing import listed

_COMMAND_ONLY = ("optuna", "mlflow")
"""Packages that the command needs and the pools on other machines do not."""
_MOST_FILES = 2


def cluster(found: Examination) -> list[Line]:
    """Which nodes there are, and which of them do not answer."""
    if not found.address:
        return []
    names = [machine.name for machine in found.nodes if machine.probe]
    lines = [
        Line("cluster", "wrong", f"{machine.name}: {machine.trouble}", _deaf(machine.trouble))
        for machine in found.nodes
        if not machine.probe
    ]
    if names:
        answer = "node answers" if len(names) == 1 else "nodes answer"
        lines.insert(0, Line("cluster", "ok", f"{len(names)} {answer}: {listed(names)}"))
    return lines


def code(found: Examination) -> list[Line]:
    """Whether every machine runs the command's own code."""
    mine = found.here.probe.code if found.here.probe else ()
    others = by_value({name: probe.code for name, probe in found.probes.items()})
    changed = [(theirs, names) for theirs, names in others.items() if theirs != mine]
    if not changed:
        same = where(found, list(found.probes), same=True)
        return [Line("code", "ok", f"{files.whole(mine)}{same}")]
    return [
        Line(
            "code",
            "wrong",
            f"{listed(names)}: other code than this command's ({_differing(mine, theirs)})",
            "bring the same code to every node: `ray up` again, or copy it and `ray stop`, "
            "`ray start` there",
        )
        for theirs, names in changed
    ]


def versions(found: Examination) -> list[Line]:
    """Whether every machine has the command's packages."""
    mine = dict(found.here.probe.versions) if found.here.probe else {}
    lines = [line for package, own in mine.items() for line in _differences(found, package, own)]
    told = ", ".join(
        f"{'Python' if name == 'python' else name} {own}" for name, own in mine.items() if own
    )
    same = " here" if lines else where(found, list(found.probes), same=True)
    return [Line("versions", "ok", told + same), *lines]


def troubles(found: Examination) -> list[Line]:
    """What could not be looked at."""
    probes = found.probes
    if found.here.probe:
        probes = {found.here.name: found.here.probe, **probes}
    whose: dict[str, list[str]] = {}
    for name, probe in probes.items():
        for trouble in probe.troubles:
            whose.setdefault(trouble, []).append(name)
    fix = "repair that, then ask again"
    return [
        Line("look", "wrong", f"{listed(names)}: could not look at {trouble}", fix)
        for trouble, names in whose.items()
    ]


def _differences(found: Examination, package: str, own: str) -> list[Line]:
    """One line for each other version of a package, and one if the command lacks it."""
    lines = [] if own else [_missing(package, "this command")]
    for theirs, names in by_value(_of(found.probes, package)).items():
        if theirs == own:
            continue
        if not theirs:
            lines.append(_missing(package, listed(names)))
            continue
        level: Level = "warn" if package in _COMMAND_ONLY else "wrong"
        how = f"`pip install {package}=={own}` there, then `ray stop`, `ray start`"
        if package == "python":
            how = f"make their environments with Python {own}"
        text = f"{listed(names)}: {package} {theirs}, this command has {own or 'none'}"
        lines.append(Line("versions", level, text, how))
    return lines


def _of(probes: dict[str, Probe], package: str) -> dict[str, str]:
    return {name: dict(probe.versions).get(package, "") for name, probe in probes.items()}


def _missing(package: str, whose: str) -> Line:
    fix = "install the project there: `pip install -e .` (on a cluster, `ray up` does it)"
    return Line("versions", "wrong", f"{whose}: {package} is not installed", fix)


def _deaf(trouble: str) -> str:
    if "ModuleNotFoundError" in trouble or "AttributeError" in trouble:
        return "install this version of the project there (on a cluster, `ray up` does it)"
    return "look at the machine: `ray status`, its load, /tmp/ray/session_latest/logs"


def _differing(mine: tuple[tuple[str, str], ...], theirs: tuple[tuple[str, str], ...]) -> str:
    names = files.differences(mine, theirs)
    more = f" and {len(names) - _MOST_FILES} more" if len(names) > _MOST_FILES else ""
    return ", ".join(names[:_MOST_FILES]) + more
