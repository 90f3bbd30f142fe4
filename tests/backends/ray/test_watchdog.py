"""What ends a command whose cluster has died: plain processes and functions stand for Ray's."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayActorError

from orchestrator.backends.ray import cluster, watchdog
from orchestrator.backends.ray.cluster import Cluster, connected
from orchestrator.backends.ray.watchdog import Watchdog
from orchestrator.errors import BackendError

MINE = {"NodeID": "mine", "Alive": True}
Answer = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(watchdog, "_AFTERWARDS_SECONDS", 0.5)


def _ray(monkeypatch: pytest.MonkeyPatch, nodes: Answer) -> None:
    context = SimpleNamespace(get_node_id=lambda: "mine")
    fake = SimpleNamespace(nodes=nodes, get_runtime_context=lambda: context)
    monkeypatch.setattr(watchdog, "ray", fake)


def _refused(why: str) -> BackendError:
    return BackendError(f"cannot be used: {why}")


def _silent() -> list[dict[str, Any]]:
    time.sleep(60)
    return []


def _broken() -> list[dict[str, Any]]:
    raise ConnectionError("refused")


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (_silent, "no answer for 1.5 s"),
        (_broken, "no answer for 1.5 s"),
        (lambda: [MINE | {"Alive": False}], "it has given up this machine"),
        (lambda: [MINE | {"NodeID": "another"}], "it has given up this machine"),
    ],
)
def test_a_cluster_that_is_gone_ends_what_waits_for_it(
    nodes: Answer, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ray(monkeypatch, nodes)
    began = time.monotonic()
    with (
        pytest.raises(BackendError, match=f"has failed: {why}.*run the same command again"),
        Watchdog(local=False, refused=_refused) as one,
    ):
        one.connected()
        time.sleep(60)
    assert time.monotonic() - began < 20


def test_a_cluster_that_lets_nobody_in_is_refused() -> None:
    with (
        pytest.raises(BackendError, match=r"cannot be used: no answer for 1\.5 s"),
        Watchdog(local=False, refused=_refused),
    ):
        threading.Event().wait(60)


def test_a_cluster_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _ray(monkeypatch, lambda: [MINE])
    before = signal.getsignal(signal.SIGUSR2)
    with Watchdog(local=True, refused=_refused) as one:
        one.connected()
        time.sleep(2.5)
    assert signal.getsignal(signal.SIGUSR2) is before


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[psutil.Process]:
    """A child of this process of that name, with a child of its own."""
    shell = shutil.copy("/bin/sh", tmp_path / "raylet")
    child = subprocess.Popen([shell, "-c", "sleep 300 & wait"])
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()


def test_a_local_cluster_ends_with_the_first_process_it_needs(
    raylet: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ray(monkeypatch, lambda: [MINE])
    with (
        pytest.raises(BackendError, match="its process 'raylet' has died"),
        Watchdog(local=True, refused=_refused) as one,
    ):
        one.connected()
        time.sleep(1)
        (below,) = raylet.children()
        raylet.kill()
        time.sleep(60)
    psutil.wait_procs([below], timeout=10)
    assert not below.is_running() or below.status() == psutil.STATUS_ZOMBIE


STUCK = """
import signal, time
from orchestrator.backends.ray import watchdog
from orchestrator.errors import BackendError
watchdog.ANSWER_SECONDS = watchdog._REFUSED_SECONDS = 0.5
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # as if Ray's library had the thread
with watchdog.Watchdog(local=False, refused=lambda why: BackendError(f"cannot be used: {why}")):
    time.sleep(60)
"""


def test_a_main_thread_that_hears_nothing_is_ended_with_the_same_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=50)
    assert done.returncode == 2
    assert done.stderr == "orchestrate: cannot be used: no answer for 0.5 s\n"


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (RayActorError(), BackendError, "has failed: RayActorError"),
        (ZeroDivisionError("ours"), ZeroDivisionError, "ours"),
        (BackendError("a pool refuses it"), BackendError, "^a pool refuses it$"),
    ],
)
def test_errors_of_ray_become_a_sentence_and_others_stay(
    raised: Exception, expected: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(cluster, "connect", lambda _: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    _ray(monkeypatch, lambda: [MINE])
    with pytest.raises(expected, match=text), connected(Cluster("10.0.0.1:6379")):
        raise raised
    assert ended


def test_sigterm_while_ray_connects_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray answers it by `sys.exit` until it has connected, and from then on."""
    before = signal.getsignal(signal.SIGTERM)

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(KeyboardInterrupt):
        cluster.connect(Cluster())
    assert signal.getsignal(signal.SIGTERM) is before
