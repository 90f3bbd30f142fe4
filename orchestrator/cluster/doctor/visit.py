"""Asks this machine and, with an address, every node of a cluster, all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.cluster.doctor.probe import SECONDS, examine
from orchestrator.cluster.doctor.records import Examination, Machine, Question, Reach
from orchestrator.data.prepared.presence import presence
from orchestrator.errors import InvalidInput
from orchestrator.spec import Suite
from orchestrator.storage.sharing import SharedCheck, Sight, filesystem, is_uri, said
from orchestrator.storage.sweep_paths import SweepPaths

PATIENCE = SECONDS + 30
"""Seconds that a node may take: torch's own time, and that of starting a process."""
_CLOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Call:
    """What a person asks the doctor. `out` is absolute, or an address; empty for none."""

    address: str | None = None
    device: str = "auto"
    out: str = ""
    suite: Suite | None = None
    backbone: str = ""
    data_root: Path = Path()
    tracking_uri: str = ""


def visit(call: Call) -> Examination:
    """Finds everything out; `BackendError` if the cluster cannot be reached, `InvalidInput` for an
    address that is none. Leaves no file and no process.
    """
    suite = call.suite
    question = Question(
        out=call.out,
        data_root=call.data_root,
        store=suite.store if suite else "",
        tasks=suite.tasks if suite else (),
        backbone=call.backbone,
    )
    with _cluster(call) as nodes, contextlib.ExitStack() as stack:
        shared, problem = _sign(call.out, stack)
        data, _ = _sign(_unprepared(call) if nodes else "", stack)
        question = replace(
            question,
            sign=shared.marker if shared else None,
            data_sign=data.marker if data else None,
        )
        with ThreadPoolExecutor(2) as threads:
            tracking = threads.submit(_reach, call.tracking_uri)
            here = threads.submit(examine, question)
            machines = _ask(question, nodes, shared, data) if nodes else ()
            probe = here.result()
        return Examination(
            here=Machine("this machine", probe),
            nodes=machines,
            address=call.address,
            device=call.device,
            out=call.out,
            out_kind="" if not call.out or is_uri(call.out) else filesystem(Path(call.out)),
            out_problem=problem,
            locks=shared.locks if shared else "",
            tracking=tracking.result(),
            suite=suite,
            data_root=call.data_root,
            backbone=call.backbone,
        )


@contextlib.contextmanager
def _cluster(call: Call) -> Iterator[Any]:
    """The nodes of the cluster while connected to it; None without an address."""
    if call.address is None:
        yield None
        return
    from orchestrator.backends import ray_settings

    ray_settings.apply(call.address)
    from orchestrator.backends.ray import nodes

    with nodes.connected(call.address):
        yield nodes.nodes()


def _sign(out: str, stack: contextlib.ExitStack) -> tuple[SharedCheck | None, str]:
    """The sign in `out`, or why none could be left."""
    if not out:
        return None, ""
    try:
        return stack.enter_context(SharedCheck(out)), ""
    except OSError as error:
        return None, said(error)


def _unprepared(call: Call) -> str:
    """The folder in which the sweep will prepare data for all nodes; empty if it has all it may
    need, or sends it through an object store.
    """
    if call.suite is None or is_uri(call.out):
        return ""
    there = presence(call.suite.store, call.suite.tasks, call.data_root)
    return "" if all(task.fingerprint for task in there) else str(call.data_root)


def _ask(
    question: Question, found: Any, shared: SharedCheck | None, data: SharedCheck | None
) -> tuple[Machine, ...]:
    from orchestrator.backends.ray import nodes

    answers = nodes.ask(examine, question, of=found, seconds=PATIENCE)
    ahead = nodes.clocks([answer.node for answer in answers if answer.value], _CLOCK_SECONDS)
    return tuple(
        Machine(
            name=answer.node.name,
            probe=answer.value,
            trouble=answer.trouble,
            ray_gpus=answer.node.gpus,
            sight_problem=_confirmed(shared, answer.value.sight if answer.value else None),
            data_problem=_confirmed(data, answer.value.data_sight if answer.value else None),
            ahead=ahead.get(answer.node.name),
        )
        for answer in answers
    )


def _confirmed(shared: SharedCheck | None, sight: Sight | None) -> str:
    return shared.confirm(sight) if shared and sight else ""


def _reach(uri: str) -> Reach | None:
    from orchestrator.cluster.doctor.tracking import reach

    return reach(uri) if uri else None


def named(paths: SweepPaths) -> str:
    """A sweep's place as other machines must find it; `InvalidInput` for a file."""
    if paths.uri:
        return paths.uri
    path = paths.out.expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"--out '{paths.out}' is a file; name a folder, or s3://BUCKET/PATH.")
    return str(path)
