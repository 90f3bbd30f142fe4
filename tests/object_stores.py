"""Object stores for tests: one in this process's memory, and moto's S3 on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from orchestrator.storage.object_store import ObjectStore, Storage, storage

BUCKET = "bucket"


class Memory:
    """Everything at s3:// lies here, for this process alone."""

    def __init__(self) -> None:
        self.bucket = MemoryStore()

    def open(self, uri: str | Path) -> Storage:
        """Stands for `storage`."""
        scheme, separator, path = str(uri).partition("://")
        if not separator or scheme == "file":
            return storage(uri)
        return self.store(path.partition("?")[0], f"{scheme}://{path}")

    def store(self, root: str, shown: str = "") -> ObjectStore:
        """The files below `root`."""
        return ObjectStore(self.bucket, self.bucket, root, shown)

    def names(self, folder: str) -> list[str]:
        """Paths of all objects below a folder of the bucket."""
        return sorted(self.store(BUCKET).walk(folder))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Memory:
    """Object stores in memory; working copies in a folder of the test's."""
    made = Memory()
    for room in ("storage.sweep_storage", "results.ledger"):
        monkeypatch.setattr(f"orchestrator.{room}.storage", made.open)
    on_machine("one", tmp_path, monkeypatch)
    return made


def on_machine(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine: it has working copies of its own."""
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(folder / f"machine {name}"))


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """An S3 with one bucket on loopback; the environment that leads there."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "hush-hush-0123",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield values
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.stop()
