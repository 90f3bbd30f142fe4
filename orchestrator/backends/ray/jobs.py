"""Commands on the head of a running cluster by Ray's Jobs API, from any machine that reaches its
dashboard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient, JobType

from orchestrator.errors import BackendError, InvalidInput, OrchestrateError
from orchestrator.storage.addresses import check_address

_TIMEOUT = 15.0
"""Seconds that an answer may take; following a log has no limit, but so often it is asked whether
the cluster is still there."""
_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""A stopped sweep ends as by Ctrl-C, and has the time to: Ray's default is SIGTERM, which its own
handler catches in the sweep's process, and SIGKILL after three seconds.
"""
_STARTING = 60.0
"""Seconds that a head which has just started may take until it accepts commands."""
_NO_AGENT = "No available agent"
"""Ray's answer while its head has no process that accepts commands."""
_POLL = 0.3
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that report every uploaded package."""


@dataclass(frozen=True)
class Job:
    """A command on the head. `state` is pending, running, succeeded, failed or stopped; times are
    in seconds since 1970, `ended` None while there is more to come.
    """

    id: str
    state: str
    started: float
    ended: float | None
    code: int | None
    message: str
    metadata: Mapping[str, str]

    @property
    def over(self) -> bool:
        """Whether it has ended, however."""
        return self.state in ("succeeded", "failed", "stopped")


class Jobs:
    """The commands of the cluster whose dashboard is at `address` (http:// or https://).

    Raises `BackendError` if no cluster answers there, if it refuses this machine's token, or if its
    Ray is another version.
    """

    def __init__(self, address: str) -> None:
        if find_spec("aiohttp") is None:  # Ray's client needs it only to follow a log
            raise BackendError(
                "Ray is installed here without its client for running clusters; "
                f"`pip install 'ray[default]=={ray.__version__}'` adds it."
            )
        self.address = _checked(address)
        for module in _CHATTY:
            logging.getLogger(module).setLevel(logging.ERROR)
        with _explained(self.address), _without_addresses():
            self._client = _Client(self.address)
            there, here = self._client.ray_version(), ray.__version__
        if there.split(".")[:2] != here.split(".")[:2]:
            raise BackendError(
                f"the cluster at {self.address} has Ray {there}, this machine has {here}; install "
                f"the same one here (`pip install 'ray[default]=={there}'`), or `ray up` it again "
                "from here."
            )

    def submit(
        self, name: str, entrypoint: str, files: Mapping[str, bytes], metadata: Mapping[str, str]
    ) -> None:
        """Start a shell command on the head, in a folder that has these files.

        `InvalidInput` if there has been one of this name.
        """
        environment: dict[str, Any] = {"env_vars": dict(_STOP)}
        with _explained(self.address, name), tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / path).write_bytes(content)
            if files:
                environment["working_dir"] = folder
            job: dict[str, Any] = {"entrypoint": entrypoint, "metadata": dict(metadata)}
            deadline = time.monotonic() + _STARTING
            while True:
                try:
                    self._client.submit_job(**job, submission_id=name, runtime_env=environment)
                    return
                except RuntimeError as error:
                    if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(_POLL)

    def all(self) -> list[Job]:
        """Every command that was submitted, the oldest first."""
        with _explained(self.address):
            found = self._client.list_jobs()
        jobs = [_job(details) for details in found if details.type == JobType.SUBMISSION]
        return sorted(jobs, key=lambda job: job.started)

    def one(self, name: str) -> Job:
        """The command of that name; `InvalidInput` if there is none."""
        with _explained(self.address, name):
            return _job(self._client.get_job_info(name))

    def log(self, name: str) -> str:
        """The command's output so far."""
        with _explained(self.address, name):
            return str(self._client.get_job_logs(name))

    def follow(self, name: str, take: Callable[[str], object]) -> None:
        """Pass the command's output to `take`, in pieces cut anywhere, until it has ended.

        `BackendError` if the cluster goes away meanwhile: a machine that is switched off closes no
        connection.
        """

        async def pieces() -> None:
            async for piece in self._client.tail_job_logs(name):
                take(piece)

        async def watched() -> None:
            reading = asyncio.ensure_future(pieces())
            while not (await asyncio.wait({reading}, timeout=_TIMEOUT))[0]:
                await asyncio.to_thread(self._client.get_job_info, name)
            await reading

        with _explained(self.address, name):
            asyncio.run(watched())

    def stop(self, name: str) -> bool:
        """Interrupt the command as Ctrl-C does; whether it was running."""
        with _explained(self.address, name):
            return bool(self._client.stop_job(name))

    def run(
        self,
        name: str,
        entrypoint: str,
        files: Mapping[str, bytes],
        metadata: Mapping[str, str],
        take: Callable[[str], object],
    ) -> Job:
        """Submit a command, pass its output to `take`, and return how it ended.

        Ray forgets it then, but for its log.
        """
        self.submit(name, entrypoint, files, metadata)
        self.follow(name, take)
        while not (ended := self.one(name)).over:
            time.sleep(_POLL)
        with _explained(self.address, name):
            self._client.delete_job(name)
        return ended


class _Client(JobSubmissionClient):
    """Ray's client, with a time limit for answers."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options["timeout"] = _TIMEOUT
        answer: requests.Response = super()._do_request(method, endpoint, **options)
        return answer

    def ray_version(self) -> str:
        """The cluster's, such as 2.60.0."""
        return str(self._do_request("GET", "/api/version").json()["ray_version"])


def _job(details: JobDetails) -> Job:
    return Job(
        id=details.submission_id or "",
        state=str(details.status).lower(),
        started=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        code=details.driver_exit_code,
        message=details.message or "",
        metadata=details.metadata or {},
    )


def _checked(address: str) -> str:
    """The address as a URL whose port answers; Ray itself would try for minutes."""
    check_address(address, "--address")
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(
            f"--address '{address}' is no address of a cluster's dashboard; write "
            "http://127.0.0.1:8265, which `ray dashboard cluster.yaml` opens a tunnel to."
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=10).close()
    except (OSError, ValueError, UnicodeError) as error:
        raise _silent(url, str(error)) from error
    return url.rstrip("/")


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Hide variables that Ray prefers to the address that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _explained(address: str, name: str = "") -> Iterator[None]:
    """Turn errors of Ray, and of the connection, into sentences that say what to do."""
    try:
        yield
    except Exception as error:
        explained = _explain(address, name, error)
        if explained is None:
            raise
        raise explained from error


def _explain(address: str, name: str, error: Exception) -> OrchestrateError | None:
    text = str(error)
    if isinstance(error, AuthenticationError):
        why = "asks for its token, and there is none here"
        if text.startswith("Authentication failed"):
            why = "refuses this machine's token, which is another cluster's"
        return BackendError(
            f"the cluster at {address} {why}: put its own into ~/.ray/auth_token (readable by you "
            "alone), as it is where `ray up` was called."
        )
    if isinstance(error, requests.JSONDecodeError | KeyError) or "check returned 404" in text:
        return BackendError(
            f"what answers at {address} is no Ray dashboard; `ray dashboard cluster.yaml` opens a "
            "tunnel to a cluster's, and --address names it."
        )
    library = type(error).__module__.split(".")[0]
    if isinstance(error, requests.RequestException | ConnectionError) or library == "aiohttp":
        return _silent(address, _last_line(error))
    if not isinstance(error, RuntimeError | ValueError):
        return None
    if "WebSocket" in text:
        return _silent(address, "the connection broke while the log was read")
    if "already exists" in text:
        return InvalidInput(
            f"'{name}' was submitted before; give another --name, or none. A sweep goes on where "
            "it stopped if it has the same --out."
        )
    if _NO_AGENT in text:
        return BackendError(
            f"the cluster at {address} accepts no commands, {_STARTING:g} s after the first try; "
            "if another Ray cluster has its head on the same machine, that one holds the port of "
            "this one's agent: stop it, or give `ray start` a free --dashboard-agent-listen-port."
        )
    if "does not exist" in text:
        return InvalidInput(f"the cluster at {address} knows no '{name}'.")
    return BackendError(f"the cluster at {address} cannot do that: {_last_line(error)}")


def _silent(address: str, why: str) -> BackendError:
    return BackendError(
        f"no cluster answers at {address} ({why.rstrip('.')}); `ray dashboard cluster.yaml` opens "
        "a tunnel to one, and --address names another."
    )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].strip() if lines else type(error).__name__
