"""clusters/postgres.sh on a new head, on one with the data of others, after a power cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.hosts import ROOT, Hosts
from tests.hosts.image import HOME
from tests.hosts.launch import listeners
from tests.hosts.rack import why_not

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(why_not()), reason=why_not())]
PSQL = "psql -X -A -t -h /var/run/postgresql -d mlflow"
PORT = "127.0.0.1:5432"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A head with PostgreSQL as Debian's package leaves it."""
    with Hosts("head") as up:
        up.path("head", f"{HOME}/postgres.sh").write_text(
            (ROOT / "clusters" / "postgres.sh").read_text()
        )
        up.run("head", "sudo apt-get install -y -q postgresql")
        assert PORT in listeners(up, "head")
        yield up


def _owner(hosts: Hosts) -> str:
    ask = "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding) FROM pg_database"
    return hosts.run("head", f"{PSQL} -c \"{ask} WHERE datname = 'mlflow'\"").text.strip()


def test_a_new_one_is_closed_and_lasts(hosts: Hosts) -> None:
    assert hosts.run("head", "sh ~/postgres.sh").text == ""
    assert _owner(hosts) == "ubuntu|UTF8"
    assert PORT not in listeners(hosts, "head")
    hosts.run("head", f"{PSQL} -q -c 'CREATE TABLE kept (x int)'")
    again = hosts.run("head", "sh -x ~/postgres.sh").text
    assert "sudo" not in again, "nothing is left to do"

    hosts.kill("head")
    hosts.start("head")
    assert hosts.run("head", f"{PSQL} -c 'SELECT 1'", check=False).code != 0
    hosts.run("head", "sh ~/postgres.sh")
    assert hosts.run("head", f"{PSQL} -c 'SELECT count(*) FROM kept'").text == "0\n"


def test_one_with_the_data_of_others_keeps_its_settings(hosts: Hosts) -> None:
    hosts.run("head", "sudo -u postgres createdb theirs")
    hosts.run("head", "sh ~/postgres.sh")
    assert _owner(hosts) == "ubuntu|UTF8"
    assert PORT in listeners(hosts, "head")


def test_somebody_elses_mlflow_is_not_taken(hosts: Hosts) -> None:
    hosts.run("head", "sudo -u postgres createuser other")
    hosts.run("head", "sudo -u postgres createdb -O other mlflow")
    refused = hosts.run("head", "sh ~/postgres.sh", check=False)
    assert refused.code == 1
    assert "has a database mlflow already, and it is other's" in refused.text
    assert PORT in listeners(hosts, "head"), "nothing was touched"
