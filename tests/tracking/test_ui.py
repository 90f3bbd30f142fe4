from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from orchestrator.errors import InvalidInput, TrackingError
from orchestrator.tracking.locations import default_uri
from orchestrator.tracking.mlflow import track
from orchestrator.tracking.ui import ui_command
from tests.commands import heed_interrupts
from tests.tracking.synthetic import append, make_sweep, results

SERVE = """
import sys
from pathlib import Path
from orchestrator.tracking.locations import default_uri
from orchestrator.tracking.ui import serve
out = Path(sys.argv[1])
sys.exit(serve(out, default_uri(out), port=int(sys.argv[2])))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, process: subprocess.Popen[str], seconds: float = 60.0) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                assert reply.status == 200
                return bytes(reply.read())
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server never answered"
            time.sleep(0.1)


def processes_on(port: int) -> list[int]:
    """Processes with the port among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(port).encode() in arguments:
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_the_interface_is_served_on_loopback_and_leaves_no_process(sweep: Path) -> None:
    append(sweep, results(1))
    track(sweep)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(sweep), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )
    try:
        page = answer(f"http://127.0.0.1:{port}/", process)
        assert b"<html" in page.lower()
        api = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=9"
        shelves = json.loads(answer(api, process))["experiments"]
        assert "orchestrate/mini/vit_mini" in {shelf["name"] for shelf in shelves}
        assert f"0100007F:{port:04X}" in Path("/proc/net/tcp").read_text()
        assert f"00000000:{port:04X}" not in Path("/proc/net/tcp").read_text()
        assert 2 <= len(processes_on(port)) <= 3
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in output
    time.sleep(0.1)
    assert processes_on(port) == []


def test_what_cannot_be_shown_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere.*holds no sweep"):
        ui_command(tmp_path / "nowhere", default_uri(tmp_path / "nowhere"))
    out = make_sweep(tmp_path / "sweep")
    with pytest.raises(TrackingError, match=f"orchestrate track {out}"):
        ui_command(out, default_uri(out))
    with pytest.raises(TrackingError, match="open that address in a browser") as caught:
        ui_command(out, "https://me:hunter2@tracking.example.org")
    assert "hunter2" not in str(caught.value)
