"""Submitted sweeps, from a machine that reaches nothing but the cluster's dashboard."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cluster.submit import KIND, SWEEP, Submission, command, query, quote_path
from orchestrator.cluster.sync.log_stream import Receiver
from orchestrator.cluster.sync.unpack import SyncResult, existing_files, merge
from orchestrator.errors import BackendError, SweepConflict, unknown

if TYPE_CHECKING:
    from orchestrator.backends.ray.jobs import Job, Jobs

DEFAULT = "http://127.0.0.1:8265"
VARIABLE = "RAY_API_SERVER_ADDRESS"
NOTICE = "notice: "
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_NOT_FOUND = 127
_RAY_LINE = re.compile(r"Running entrypoint for job |\d{4}-\d\d-\d\d .*\bjob_manager\.py:\d+ -- ")


def connect(address: str | None) -> Jobs:
    """The jobs of the cluster at `address`; by default, and for `auto`, `$RAY_API_SERVER_ADDRESS`,
    else port 8265 of this machine. A token in the default file is used, as Ray itself does only if
    it is told to.
    """
    if any(map(os.environ.get, _TOKENS)) or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    url = (address if address != "auto" else None) or os.environ.get(VARIABLE) or DEFAULT
    from orchestrator.backends import ray_settings

    ray_settings.apply(url)
    from orchestrator.backends.ray.jobs import Jobs

    return Jobs(url)


def all_sweeps(jobs: Jobs) -> list[Job]:
    """The submitted sweeps, the oldest first."""
    return [job for job in jobs.all() if job.metadata.get(KIND) == SWEEP]


def find_sweep(jobs: Jobs, name: str) -> Job:
    """The sweep of that id; `InvalidInput` with the others if there is none."""
    found = {job.id: job for job in all_sweeps(jobs)}
    if name not in found:
        raise unknown(f"sweep at {jobs.address}", name, found)
    return found[name]


def submit(jobs: Jobs, submission: Submission) -> None:
    """Submit a sweep; `SweepConflict` if one with the same --out still runs."""
    out = submission.metadata["out"]
    for other in all_sweeps(jobs):
        if not other.over and other.metadata.get("out") == out:
            raise SweepConflict(
                f"'{out}' is used by the running sweep {other.id}; wait for its end, stop it "
                f"(`orchestrate stop {other.id}`), or name another --out."
            )
    jobs.submit(*submission)


def run_command(jobs: Jobs, sweep: Job, what: str, width: int) -> tuple[bool, str]:
    """Run `orchestrate WHAT OUT` on the head, `width` columns wide.

    Returns whether it succeeded, and its output or the reason of its failure.
    """
    line = f"export COLUMNS={width} NO_COLOR=1; {command(what)} {quote_path(sweep.metadata['out'])}"
    log: list[str] = []
    ended = jobs.run(*query(what, line), log.append)
    output = _without_ray_lines("".join(log))
    return (True, output) if ended.state == "succeeded" else (False, _reason(ended, output))


def fetch(
    jobs: Jobs, sweep: Job, target: Path, everything: bool, notify: Callable[[str], None]
) -> SyncResult:
    """Copy a sweep's files into the folder `target`, whose lock the caller holds.

    Raises `BackendError` if the head cannot send them or they do not arrive completely, `DataError`
    or `SweepConflict` as `merge` does; then nothing is changed.
    """
    files = {"existing.json": existing_files(target, everything).dump()}
    arguments = ["pack", *(["--all"] if everything else []), "--existing", "existing.json"]
    line = f"{command(*arguments)} {quote_path(sweep.metadata['out'])}"
    with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as folder:
        archive = Path(folder) / "files.tar.gz"
        with open(archive, "wb") as sink:
            receiver = Receiver(sink)
            ended = jobs.run(*query("fetch", line, files), receiver.feed)
            if ended.state != "succeeded":
                log = _without_ray_lines("\n".join(receiver.other_lines))
                raise BackendError(_reason(ended, log))
            receiver.finish()
        for line in receiver.other_lines:
            if line.startswith(NOTICE):
                notify(line)
        return merge(archive, target)


def _reason(ended: Job, log: str) -> str:
    """Why a command on the head failed: its own last line, if there is any."""
    if ended.code == _NOT_FOUND:
        return (
            "the head has no `orchestrate`: neither on the PATH that Ray was started with nor in "
            "~/venv/bin. `ray up` installs it."
        )
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1].removeprefix("orchestrate: ") if lines else ended.message


def _without_ray_lines(log: str) -> str:
    """A job's log without the lines of Ray, which may come after the first of its own."""
    return "".join(line for line in log.splitlines(keepends=True) if not _RAY_LINE.match(line))
