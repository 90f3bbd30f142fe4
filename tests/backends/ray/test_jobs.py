"""What the Jobs API may answer, without a cluster: one sentence for each."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray
from aiohttp import web

from orchestrator.backends.ray import jobs
from orchestrator.backends.ray.jobs import Jobs
from orchestrator.cluster import submitted
from orchestrator.errors import BackendError, InvalidInput, OrchestrateError
from tests.http_server import http_server

VERSION = (200, json.dumps({"ray_version": ray.__version__}))


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        (200, json.dumps({"ray_version": "2.3.0"}), "has Ray 2.3.0, this machine has"),
        (200, json.dumps({"ray_version": "99.1.0"}), r"install the same.*ray\[default\]==99\.1\.0"),
        (200, "<html>Jupyter</html>", "is no Ray dashboard"),
        (200, "{}", "is no Ray dashboard"),
        (404, "", "is no Ray dashboard"),
        (401, "Unauthorized: Missing authentication token", "asks for its token, and there is"),
        (403, "Forbidden: Invalid authentication token", "refuses this machine's token"),
    ],
)
def test_who_answers(status: int, text: str, sentence: str) -> None:
    with (
        http_server({"GET /api/version": (status, text)}) as address,
        pytest.raises(BackendError, match=sentence) as refusal,
    ):
        Jobs(address)
    assert address in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_dashboard_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BackendError, match=f"no cluster answers at {address} .*timed out"):
            Jobs(address)


def test_auto_is_the_dashboard_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"GET /api/version": VERSION, "GET /api/jobs/": (200, "[]")}
    with http_server(answers) as address:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
        assert submitted.connect("auto").address == address


def test_the_address_given_is_the_one_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray prefers the environment's."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with http_server({"GET /api/version": VERSION, "GET /api/jobs/": (200, "[]")}) as address:
        assert Jobs(f"{address}/").all() == []
        assert Jobs(address.removeprefix("http://")).address == address
    with pytest.raises(BackendError, match="no cluster answers"):
        Jobs(address)


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "s3://bucket", "http://"])
def test_addresses_of_something_else(address: str) -> None:
    with pytest.raises(OrchestrateError, match=r"http://127\.0\.0\.1:8265|no cluster answers"):
        Jobs(address)


@pytest.mark.parametrize(
    ("status", "text", "kind", "sentence"),
    [
        (400, "Traceback …\nValueError: Job with submission_id a already exists. Please use a "
         "different submission_id.\n", InvalidInput, "'a' was submitted before"),
        (500, "Traceback …\nOSError: [Errno 28] No space left on device\n", BackendError,
         "cannot do that: OSError: .*No space left"),
        (500, "No available agent to submit job, please try again later.", BackendError,
         "accepts no commands, 0 s after .* free --dashboard-agent-listen-port"),
    ],
)  # fmt: skip
def test_a_command_that_is_not_taken(
    status: int,
    text: str,
    kind: type[OrchestrateError],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "_STARTING", 0.0)
    answers = {"GET /api/version": VERSION, "POST /api/jobs/": (status, text)}
    with http_server(answers) as address, pytest.raises(kind, match=sentence) as refusal:
        Jobs(address).submit("a", "true", {}, {})
    assert "\n" not in str(refusal.value)


def test_a_command_that_is_not_there() -> None:
    answers = {"GET /api/version": VERSION, "GET /api/jobs/a": (404, "Job a does not exist")}
    with http_server(answers) as address, pytest.raises(InvalidInput, match="knows no 'a'"):
        Jobs(address).one("a")


@pytest.mark.parametrize("end", ["closed", "broken", "silent"])
def test_a_log_is_followed_until_the_cluster_is_gone(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that ends closes the connection or breaks it off; one switched off says nothing."""
    monkeypatch.setattr(jobs, "_TIMEOUT", 0.5)
    read: list[str] = []
    with _head_that_ends(end) as address:
        command = Jobs(address)
        if end == "closed":
            command.follow("a", read.append)
        else:
            with pytest.raises(BackendError, match=f"no cluster answers at {address}") as refusal:
                command.follow("a", read.append)
            assert "\n" not in str(refusal.value)
    assert read == ["one\n", "two\n"]


@contextmanager
def _head_that_ends(end: str) -> Iterator[str]:
    """A dashboard that sends two lines of a log; its address."""
    sent = False

    async def version(_: web.Request) -> web.Response:
        return web.json_response(json.loads(VERSION[1]))

    async def info(_: web.Request) -> web.Response:
        assert sent
        await asyncio.sleep(60)
        raise AssertionError("nobody waits as long")

    async def tail(request: web.Request) -> web.WebSocketResponse:
        nonlocal sent
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for line in ("one\n", "two\n"):
            await socket.send_str(line)
        sent = True
        if end == "broken":
            assert request.transport is not None
            request.transport.abort()
        elif end == "silent":
            await asyncio.sleep(60)
        return socket

    application = web.Application()
    application.add_routes(
        [
            web.get("/api/version", version),
            web.get("/api/jobs/a", info),
            web.get("/api/jobs/a/logs/tail", tail),
        ]
    )
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
