"""What must hold on every launched cluster, whoever provides its machines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orchestrator.results.ledger import Ledger
from orchestrator.spec import TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.hosts.hosts import LAPTOP, ROOT
from tests.hosts.image import HOME
from tests.hosts.launch import (
    FILE,
    STRANGER,
    Launch,
    answers_on_loopback,
    code_on,
    listeners,
    open_to_others,
    said_on_loopback,
)
from tests.hosts.rack import wait_for


def check_code(launch: Launch, *names: str) -> None:
    """Every node runs the laptop's working tree, and has no more of it than it needs."""
    mine = (ROOT / "orchestrator" / "sweep.py").read_text()
    for name in names:
        code = code_on(launch.hosts, name)
        assert str(code) == f"{HOME}/orchestrate/orchestrator"
        theirs = launch.hosts.path(name, str(code))
        assert (theirs / "sweep.py").read_text() == mine
        assert not (theirs.parent / "tests").exists()


def check_strangers(launch: Launch, head: str) -> None:
    """Without the token, or with a wrong one, the cluster says nothing."""
    status = f"ray status --address {launch.hosts.addresses[head]}:6379"
    for environment in ({}, STRANGER):
        refused = launch.hosts.run(LAPTOP, status, check=False, environment=environment)
        assert refused.code != 0
        assert "InvalidAuthToken" in refused.text


def check_dashboard(launch: Launch, head: str) -> None:
    """It is not on the network, and on the head it asks for the token."""
    assert open_to_others(launch.hosts, head, 6379), "the knock itself works"
    assert not open_to_others(launch.hosts, head, 8265)
    assert "401" in answers_on_loopback(launch.hosts, head)


def check_token(launch: Launch, names: Sequence[str], *texts: str) -> None:
    """The token is in one file of each node, readable by its owner, and in nothing printed."""
    token = launch.token()
    assert not any(token in text for text in texts)
    for name in names:
        file = launch.hosts.path(name, f"{HOME}/.ray/auth_token")
        assert file.read_text().strip() == token
        assert file.stat().st_mode & 0o077 == 0, name
        assert not any(token in line for line in launch.hosts.processes(name)), name
        logs = launch.hosts.run(name, "grep -rlFf ~/.ray/auth_token /tmp/ray", check=False)
        assert (logs.code, logs.text) == (1, ""), name


def check_results(fetched: Path, said: str) -> list[TrialResult]:
    """The sweep's folder, brought home, has every trial that the command counted, once."""
    home = SweepPaths(fetched)
    rows = Ledger(home.ledger).results()
    (count,) = re.findall(r"^(\d+) trials, ", said, flags=re.MULTILINE)
    assert len(rows) == int(count) > 0, said
    assert set(Counter(row.key for row in rows).values()) == {1}
    assert {row.status for row in rows} == {"finished"}
    assert home.report.exists()
    assert (home.registry / "index.json").exists()
    return rows


PSQL = "psql -X -A -t -h /var/run/postgresql -d mlflow"


def check_tracking(launch: Launch, head: str) -> None:
    """MLflow's server is on the head's loopback alone, once, and the laptop gets there by ssh.

    PostgreSQL has no port, and its database opens to the cluster's user only.
    """
    hosts = launch.hosts
    assert said_on_loopback(hosts, head, 5000, "health") == "OK"
    assert not open_to_others(hosts, head, 5000)
    heard = listeners(hosts, head)
    assert {address for address in heard if address.endswith((":5000", ":5432"))} == {
        "127.0.0.1:5000"
    }
    refused = hosts.run(head, f"cd / && sudo -u nobody {PSQL} -c 'SELECT 1'", check=False)
    assert refused.code != 0
    assert 'role "nobody" does not exist' in refused.text

    servers = [line for line in hosts.processes(head) if "mlflow server" in line]
    (start,) = re.findall(r"- (\S+ -P -m orchestrator.tracking.server .*?) *#", launch.text)
    assert hosts.run(head, start).text == "MLflow's server was running: http://127.0.0.1:5000\n"
    assert [line for line in hosts.processes(head) if "mlflow server" in line] == servers
    assert len(servers) == 1

    tunnel = hosts.popen(LAPTOP, f"ray exec -p 5000 {FILE} 'sleep 60'")
    wait_for("the tunnel", lambda: "127.0.0.1:5000" in listeners(hosts, LAPTOP))
    assert "<html" in said_on_loopback(hosts, LAPTOP, 5000, "")
    tunnel.terminate()


def check_tracked(launch: Launch, head: str, rows: Sequence[TrialResult], shared: str) -> None:
    """PostgreSQL has every trial once and no token, the shared folder the artifacts."""
    tags = f"{PSQL} -c \"SELECT value FROM tags WHERE key = 'orchestrate.key'\""
    keys = Counter(launch.hosts.run(head, tags).text.split())
    assert {row.key for row in rows} <= set(keys)
    assert set(keys.values()) == {1}
    launch.hosts.run(head, f"test -s {shared}/mlflow/*/*/artifacts/report.html")
    dump = "pg_dump -h /var/run/postgresql mlflow | grep -cFf ~/.ray/auth_token"
    assert launch.hosts.run(head, dump, check=False).text == "0\n"
    home = launch.hosts.path(LAPTOP, f"{HOME}/fetched")
    assert not (home / "mlflow.db").exists(), "the server is the default"
