"""Sweeps on a running cluster, seen from a machine that reaches nothing but its dashboard."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster.submit import KIND, SWEEP, Work, command, look, place_word
from orchestrator.cluster.sync.log_stream import Receiver
from orchestrator.cluster.sync.unpack import Arrived, held, put
from orchestrator.errors import BackendError, SweepConflict, unknown

if TYPE_CHECKING:
    from orchestrator.backends.ray.jobs import Job, Jobs

DEFAULT = "http://127.0.0.1:8265"
VARIABLE = "RAY_API_SERVER_ADDRESS"
NOTICE = "notice: "
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_NOT_FOUND = 127
_OF_RAY = re.compile(r"Running entrypoint for job |\d{4}-\d\d-\d\d .*\bjob_manager\.py:\d+ -- ")


def connect(address: str | None) -> Jobs:
    """The commands of the cluster at `address`; by default `$RAY_API_SERVER_ADDRESS`, else 8265 of
    this machine. A token that lies here is used, as Ray itself does only if it is told to.
    """
    if any(map(os.environ.get, _TOKENS)) or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    url = address or os.environ.get(VARIABLE) or DEFAULT
    from orchestrator.backends import ray_settings

    ray_settings.apply(url)
    from orchestrator.backends.ray.jobs import Jobs

    return Jobs(url)


def sweeps(jobs: Jobs) -> list[Job]:
    """The submitted sweeps, the oldest first."""
    return [job for job in jobs.all() if job.metadata.get(KIND) == SWEEP]


def known(jobs: Jobs, name: str) -> Job:
    """The sweep of that id; `InvalidInput` with the others if there is none."""
    found = {job.id: job for job in sweeps(jobs)}
    if name not in found:
        raise unknown(f"sweep at {jobs.address}", name, found)
    return found[name]


def start(jobs: Jobs, work: Work) -> None:
    """Submits a sweep; `SweepConflict` if one with the same place still runs."""
    out = work.metadata["out"]
    for other in sweeps(jobs):
        if not other.over and other.metadata.get("out") == out:
            raise SweepConflict(
                f"'{out}' is being swept by {other.id}; wait for its end, or stop it "
                f"(`orchestrate stop {other.id}`), or name another --out."
            )
    jobs.submit(work.id, work.entrypoint, work.files, work.metadata)


def ask(jobs: Jobs, sweep: Job, what: str, width: int) -> tuple[bool, str]:
    """What `orchestrate WHAT OUT` prints on the head (columns: `width`), and whether it succeeded;
    its reason if it did not.
    """
    line = f"export COLUMNS={width} NO_COLOR=1; {command(what)} {place_word(sweep.metadata['out'])}"
    said: list[str] = []
    ended = _run(jobs, look(what, line), said.append)
    output = _ours("".join(said))
    return (True, output) if ended.state == "succeeded" else (False, _why(ended, output))


def bring(
    jobs: Jobs, sweep: Job, target: Path, everything: bool, say: Callable[[str], None]
) -> Arrived:
    """Brings a sweep's files into the folder `target`, whose lease the caller has.

    `BackendError` if the head cannot pack them or they do not come whole, `DataError` or
    `SweepConflict` as `put` does; then nothing is changed.
    """
    here = {"held.json": held(target, everything).dump()}
    words = ["pack", *(["--all"] if everything else []), "--held", "held.json"]
    line = f"{command(*words)} {place_word(sweep.metadata['out'])}"
    with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as folder:
        archive = Path(folder) / "parcel.tar.gz"
        with open(archive, "wb") as sink:
            receiver = Receiver(sink)
            ended = _run(jobs, look("fetch", line, here), receiver.feed)
            if ended.state != "succeeded":
                raise BackendError(_why(ended, _ours("\n".join(receiver.said))))
            receiver.finish()
        for line in receiver.said:
            if line.startswith(NOTICE):
                say(line)
        return put(archive, target)


def _run(jobs: Jobs, work: Work, take: Callable[[str], object]) -> Job:
    return jobs.run(work.id, work.entrypoint, work.files, work.metadata, take)


def _why(ended: Job, said: str) -> str:
    """Why a command on the head failed: its own last line, if there is any."""
    if ended.code == _NOT_FOUND:
        return (
            "the head has no `orchestrate`: neither on the PATH that Ray was started with nor in "
            "~/venv/bin. `ray up` installs it."
        )
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("orchestrate: ") if lines else ended.message


def _ours(log: str) -> str:
    """A log without what Ray writes into it, which may come after the first of ours."""
    return "".join(line for line in log.splitlines(keepends=True) if not _OF_RAY.match(line))
