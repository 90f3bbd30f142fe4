"""Simulated hosts change nothing on this machine and leave no process or file behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.hosts import ROOT, Hosts
from tests.hosts.image import HOME
from tests.hosts.rack import Rack, wait_for, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(why_not()), reason=why_not())]


def test_what_a_host_writes_stays_on_its_disk() -> None:
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    with Hosts("one", "two") as hosts:
        site = hosts.run("one", f'~/venv/bin/python -c "{where}"').text.strip()
        assert site.startswith(f"{HOME}/venv/")
        places = ("/tmp/mine", "~/mine", "/etc/mine", "/dev/shm/mine", f"{site}/mine.py")
        hosts.run("one", f"touch {' '.join(places)}")
        for place in places:
            assert hosts.run("two", f"test -e {place}", check=False).code == 1, place
        assert not Path("/etc/mine").exists()
        outside = subprocess.run([sys.executable, "-c", "import mine"], capture_output=True)
        assert outside.returncode == 1
        assert not any("pytest" in line for line in hosts.processes("one"))


def test_nothing_is_left_after_a_failure() -> None:
    hosts = Hosts("head")
    with pytest.raises(ZeroDivisionError), hosts:
        rack, folder = hosts._rack, Path(hosts._rack._folder.name)
        hosts.popen("head", "setsid sleep 1000")
        wait_for("the process", lambda: any("sleep 1000" in line for line in rack.processes()))
        1 / 0  # noqa: B018
    assert rack.processes() == []
    assert not folder.exists()


_DIES = """
import os, signal
from tests.hosts.hosts import Hosts
hosts = Hosts("head")
hosts.up()
hosts.popen("head", "setsid sleep 1000")
print(hosts._rack._folder.name, *hosts._rack.spaces, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_hosts_die_with_the_process_that_made_them() -> None:
    killed = subprocess.run([sys.executable, "-c", _DIES], capture_output=True, text=True, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder, *spaces = killed.stdout.split()
    Path(folder).rmdir()  # empty: its disks were in memory and are gone
    assert len(set(spaces)) == 3, "the rack's, the laptop's and the host's"
    rack = Rack()
    try:
        rack.spaces = set(spaces)
        wait_for("the orphans to end", lambda: not rack.processes(), seconds=5)
    finally:
        rack.off()
