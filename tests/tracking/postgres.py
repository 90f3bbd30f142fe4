"""A real PostgreSQL of a test's own: Debian's programs, a folder, one unix socket and no port."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.commands import until

OWNER = "postgres" if os.geteuid() == 0 else getpass.getuser()
"""PostgreSQL refuses to run as root."""


def programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs; it is in nobody's PATH."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda p: int(p.parent.name), default=None)


def skip_without() -> None:
    """Skips where PostgreSQL is missing; fails there if `CLUSTER_TESTS=required`, as in CI."""
    if programs() is None:
        missing = "PostgreSQL's programs are missing: apt-get install postgresql"
        (pytest.fail if os.environ.get("CLUSTER_TESTS") == "required" else pytest.skip)(missing)


class Postgres:
    """A server that runs; whoever runs the test may make databases in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, name: str) -> str:
        """A new, empty database; its SQLAlchemy address."""
        with self._connected("postgres") as database:
            database.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg:///{name}?host={self.folder}"

    def ask(self, name: str, question: str) -> list[tuple[Any, ...]]:
        """The rows that answer an SQL question."""
        with self._connected(name) as database:
            return database.execute(question.encode()).fetchall()

    def content(self, name: str) -> list[str]:
        """All rows of a database as text, in no order."""
        command = ["pg_dump", "--host", str(self.folder), "--data-only", "--inserts", name]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return sorted(line for line in lines.splitlines() if line.startswith("INSERT"))

    def _connected(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), dbname=name, autocommit=True)


@contextmanager
def private_postgres() -> Iterator[Postgres]:
    """Runs one until the end of the block, or of this process."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        shutil.chown(folder, OWNER)
        data, made = str(folder / "data"), programs()
        assert made
        options = ["--auth=peer", "--no-sync", "--no-locale", "--encoding=UTF8"]
        _run(f"{made}/initdb", "-D", data, *options)
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
        given = [word for setting in settings for word in ("-c", setting)]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [*_owner("--pdeathsig", "KILL"), f"{made}/postgres", "-D", data, *given],
                stdout=log,
                stderr=log,
            )
        try:
            _settle(folder, server)
            yield Postgres(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once
            server.wait(20)
    finally:
        shutil.rmtree(folder)


def _settle(folder: Path, server: subprocess.Popen[bytes]) -> None:
    def up() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        return subprocess.run(["pg_isready", "-q", "-h", str(folder)]).returncode == 0

    until(up)
    if (me := getpass.getuser()) != OWNER:
        role = f'CREATE ROLE "{me}" LOGIN CREATEDB'
        _run("psql", "-X", "-q", "-h", str(folder), "-d", "postgres", "-c", role)


def _run(*command: str) -> None:
    done = subprocess.run([*_owner(), *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _owner(*options: str) -> Sequence[str]:
    if os.geteuid() == 0:
        options = (*options, f"--reuid={OWNER}", f"--regid={OWNER}", "--init-groups")
    return ["setpriv", *options]
