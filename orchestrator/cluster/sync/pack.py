"""On the head: an archive of a sweep's files, without those that the receiver has already."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from orchestrator.cluster.sync.file_list import NAME, FileList, entries, names_in
from orchestrator.cluster.sync.log_stream import Sender
from orchestrator.errors import DataError, OrchestrateError, SweepConflict
from orchestrator.results.sweep_file import read_sweep
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage

_ATTEMPTS = 10
_CACHE = "ORCHESTRATE_CACHE"


def pack(
    out: Path,
    existing: FileList,
    everything: bool,
    write_line: Callable[[str], None],
    refresh: Callable[[Path], object],
) -> None:
    """Print a sweep's files as lines of text; the sweep may be running.

    Args:
        out: its folder.
        existing: the receiver's files; equal ones are not sent again.
        everything: also what only another command would need (suggestions, adapters, logs).
        write_line: prints one line.
        refresh: writes registry and report from the ledger, which a sweep does only at its end.

    Raises `InvalidInput` if there is no sweep, `SweepConflict` if the receiver has another one.
    """
    paths = SweepPaths(out)
    sweep = read_sweep(paths).id
    check_same(existing.sweep, sweep)
    if _is_outdated(paths):
        try:
            refresh(out)
        except OrchestrateError as error:  # the ledger is sent even without a new report
            write_line(f"notice: registry and report are as they were last written: {error}")
    sender = Sender(write_line)
    # The fastest level: Parquet and weights do not get smaller, JSON and HTML do at any level.
    with (
        gzip.GzipFile(fileobj=cast(IO[bytes], sender), mode="wb", compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        files: dict[str, str] = {}
        for entry in entries(everything):
            files |= _pack_entry(archive, out, entry, existing)
        _add(archive, NAME, FileList(sweep, files).dump())
    sender.end()


@contextmanager
def local_copy(out: str) -> Iterator[Path]:
    """The sweep's folder; a temporary copy if it is in an object store.

    Not the working copy of a command that may run on this machine: it has files that are not
    uploaded yet.
    """
    if "://" not in out:
        yield Path(out).expanduser()
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_CACHE] = folder
        storage = SweepStorage.at(out)
        for entry in entries(everything=True):  # the report after the ledger that it describes
            path = storage.paths.out / entry
            (storage.download if path.suffix else storage.sync_down)(path)
        yield storage.paths.out


def check_same(local: str, remote: str) -> None:
    """`SweepConflict` if the local folder has another sweep than the remote one (empty: none)."""
    if local not in ("", remote):
        raise SweepConflict(
            f"the local folder holds another sweep (id {local}, not {remote}); name a new folder: "
            "`orchestrate fetch ID DIR`."
        )


def _is_outdated(paths: SweepPaths) -> bool:
    """Whether the ledger has a file that is newer than the report."""
    rows = [paths.out / name for name in names_in(paths.out, Path(paths.ledger).name)]
    if not rows or not paths.report.exists():
        return bool(rows)
    return paths.report.stat().st_mtime < max(row.stat().st_mtime for row in rows)


def _pack_entry(
    archive: tarfile.TarFile, out: Path, entry: str, existing: FileList
) -> dict[str, str]:
    """Path → SHA-256 of a consistent state of an entry; adds the files that the receiver lacks."""
    sent: dict[str, str] = dict(existing.files)
    for _ in range(_ATTEMPTS):
        before, found = _inode(out / entry), {}
        try:
            for name in names_in(out, entry):
                data = (out / name).read_bytes()
                found[name] = hashlib.sha256(data).hexdigest()
                if sent.get(name) != found[name]:
                    _add(archive, name, data)
                    sent[name] = found[name]
        except FileNotFoundError:
            continue  # the ledger was compacted or the registry replaced: list the files again
        if _inode(out / entry) == before:
            return found
    raise DataError(f"'{out / entry}' changes while it is read; run the same command again.")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
