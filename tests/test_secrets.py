"""No secret of the environment or of an address reaches a file, an argument or what is printed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import results, small_sweep, start
from tests.tracking.test_server import free_port

# Every secret begins with "hush" and a number.
VARIABLES = {
    "AWS_SECRET_ACCESS_KEY": "hush01/wJalrXUtnFEMI",
    "AWS_SESSION_TOKEN": "hush02+IQoJb3JpZ2lu",
    "AWS_SECURITY_TOKEN": "hush03+IQoJb3JpZ2lu",
    "AZURE_STORAGE_ACCOUNT_KEY": "hush04/Eby8vdM02xNO==",
    "AZURE_CLIENT_SECRET": "hush05~client",
    "GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "hush06-private"}',
    "HF_TOKEN": "hf_hush07abcdef",
    "DATABRICKS_TOKEN": "dapi_hush08abcdef",
    "MLFLOW_TRACKING_PASSWORD": "hush09 with space",
    "MLFLOW_TRACKING_TOKEN": "hush10.jwt.token",
    "PGPASSWORD": "hush11;semicolon",
}
ADDRESSES = {
    "a slash": "postgresql://me:hush20/slash@127.0.0.1:9/db",
    "percent-encoded": "mysql+pymysql://me:hush21%40at@127.0.0.1:9/db",
    "inside odbc_connect": "mssql+pyodbc:///?odbc_connect=SERVER%3Dh%3BPWD%3Dhush22",
    "a query": "https://127.0.0.1:9/mlflow?access_token=hush23",
    "a user": "https://hush24:@127.0.0.1:9/",
}


class Arguments:
    """The command lines of all processes that begin while it is open."""

    def __enter__(self) -> Arguments:
        self.seen: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    self.seen.add((folder / "cmdline").read_bytes())
                except OSError:  # it has ended
                    continue


def leaks(content: bytes) -> list[str]:
    """The secrets in `content`, however the rest of each is encoded."""
    return sorted({found.decode() for found in re.findall(rb"hush\d\d", content)})


@pytest.fixture
def ray_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray writes; not in pytest's folder, whose path is too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="r"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_no_secret_is_left_by_any_command(
    tmp_path: Path, data_root: Path, ray_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    first, *others = ADDRESSES.values()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first)
    printed = {}
    with Arguments() as arguments:
        sweep = small_sweep(out, "ray", tasks="tulips")
        printed["sweep"] = _finish(start(sweep, data_root), 0)
        assert len(results(out)) == 16
        for number, address in enumerate(others):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            printed[f"track {number}"] = _finish(start(["track", str(out)], data_root), 2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", first)
        printed["doctor"] = _finish(start(["doctor", "--out", str(out)], data_root), 1)
        submit = ["submit", "mini", "--dry-run", "--out", str(out), "--address", "127.0.0.1:9"]
        printed["submit"] = _finish(start(submit, data_root), 0)
        ui = start(["ui", str(out), "--port", str(free_port())], data_root)
        with suppress(subprocess.TimeoutExpired):  # there is no such database
            ui.wait(15)
        ui.terminate()
        printed["ui"] = ui.communicate(timeout=60)[0]
    found = {name: leaks(text.encode()) for name, text in printed.items()}
    for line in arguments.seen:
        found[line.decode(errors="replace")] = leaks(line)
    for folder in (out, ray_files):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                found[str(path)] = leaks(path.read_bytes())
    assert len(found) > 100, "Ray's files were not looked at"
    assert {where: names for where, names in found.items() if names} == {}


def _finish(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output
