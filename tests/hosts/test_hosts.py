"""The simulated hosts are what a test of a cluster takes them for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.hosts import LAPTOP, ROOT, Hosts
from tests.hosts.image import HOME
from tests.hosts.rack import Rack, child_of, wait_for
from tests.hosts.support import why_not

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(why_not()), reason=why_not())]
SSH = "ssh -n -o StrictHostKeyChecking=no -o ConnectTimeout=2 -o BatchMode=yes -o LogLevel=ERROR"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts("head", "one", "two", shared="/mnt/shared") as up:
        yield up


def _ssh(hosts: Hosts, name: str, command: str, check: bool = True) -> str:
    return hosts.run(LAPTOP, f"{SSH} {name} '{command}'", check=check).text.strip()


def test_each_is_a_computer_of_its_own(hosts: Hosts) -> None:
    for name in ("head", "one", "two"):
        assert _ssh(hosts, name, "hostname") == name
        assert _ssh(hosts, name, "hostname -I") == hosts.addresses[name]
        assert _ssh(hosts, name, "echo $HOME") == HOME
        _ssh(hosts, name, f"echo {name} | tee /tmp/mine ~/mine /etc/mine /dev/shm/mine /root/mine")
    for place in ("/tmp/mine", "~/mine", "/etc/mine", "/dev/shm/mine", "/root/mine"):
        assert _ssh(hosts, "one", f"cat {place}") == "one", place
    assert not Path("/etc/mine").exists(), "what a host writes stays on its disk"
    assert any("sshd" in line for line in hosts.processes("one"))
    assert not any("pytest" in line for line in hosts.processes("one"))


def test_one_folder_is_seen_by_all_hosts_and_not_by_the_laptop(hosts: Hosts) -> None:
    _ssh(hosts, "one", "echo hello > /mnt/shared/note")
    assert _ssh(hosts, "two", "cat /mnt/shared/note") == "hello"
    assert hosts.run(LAPTOP, "test -e /mnt/shared/note", check=False).code == 1


def test_served_folders_are_mounted_once_they_are_exported() -> None:
    mount = "sudo mount -t nfs4 -o nosuid,nodev head:/home/ubuntu/shared ~/shared"
    with Hosts("head", "one", shared="/srv/served") as hosts:
        hosts.run("one", "mkdir ~/shared")
        assert hosts.run("one", mount, check=False).code != 0
        hosts.run("head", 'mkdir ~/shared; echo "$HOME/shared *(rw)" | sudo tee /etc/exports')
        hosts.run("head", "sudo exportfs -ra && echo hello > ~/shared/note")
        hosts.run("one", mount)
        assert hosts.run("one", "mountpoint -q ~/shared && cat ~/shared/note").text == "hello\n"


def test_the_environment_is_there_and_a_change_to_it_stays_on_the_host(hosts: Hosts) -> None:
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = hosts.run("one", f'~/venv/bin/python -c "{where}"').text.strip()
    assert site.startswith(f"{HOME}/venv/")
    hosts.run("one", f"echo 'LEFT = 1' > {site}/left_here.py")
    ask = "~/venv/bin/python -c 'import left_here'"
    assert hosts.run("one", ask, check=False).code == 0
    assert hosts.run("two", ask, check=False).code == 1
    outside = subprocess.run([sys.executable, "-c", "import left_here"], capture_output=True)
    assert outside.returncode == 1


def test_the_laptop_has_the_working_tree(hosts: Hosts) -> None:
    assert hosts.run(LAPTOP, "pwd; ls cluster.yaml").text.split() == [str(ROOT), "cluster.yaml"]


def test_a_killed_host_is_gone_and_comes_back_with_its_disk(hosts: Hosts) -> None:
    _ssh(hosts, "two", "echo kept > ~/kept; echo lost > /tmp/lost")
    hosts.kill("two")
    assert hosts.run(LAPTOP, f"{SSH} two true", check=False).code == 255
    assert "two" not in hosts.running
    hosts.start("two")
    assert _ssh(hosts, "two", "cat ~/kept; test -e /tmp/lost || echo gone") == "kept\ngone"


def test_a_cut_host_goes_on_unheard(hosts: Hosts) -> None:
    sleeper = hosts.popen("two", "sleep 1000")
    hosts.cut("two")
    assert hosts.run(LAPTOP, f"{SSH} two true", check=False).code == 255
    assert "sleep 1000" in hosts.processes("two")
    hosts.start("two")
    assert _ssh(hosts, "two", "hostname") == "two"
    assert sleeper.poll() is None
    hosts.run("two", "kill $(pgrep -f 'sleep 100[0]')")
    sleeper.wait(5)


def test_a_command_that_fails_says_what_it_printed(hosts: Hosts) -> None:
    with pytest.raises(AssertionError, match=r"exit code 3\n.*oh dear"):
        hosts.run("one", "echo oh dear; exit 3")


def test_two_racks_with_the_same_addresses_do_not_meet(hosts: Hosts) -> None:
    with Hosts("head") as other:
        other.run("head", "touch ~/other")
        assert _ssh(other, "head", "ls ~/other").endswith("other")
        assert _ssh(hosts, "head", "ls ~/other", check=False).startswith("ls: cannot access")


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


def test_an_end_is_not_announced_before_it_is_true() -> None:
    rack = Rack()
    assert child_of(os.getpid()) is not None
    rack.off()
    with pytest.raises(TimeoutError, match="waited 0 s in vain for nothing"):
        wait_for("nothing", lambda: None, seconds=0.1)
