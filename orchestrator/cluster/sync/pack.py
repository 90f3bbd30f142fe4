"""Where the sweep is: its files as an archive, without those that are at home already."""

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

from orchestrator.cluster.sync.contents import NAME, Contents, areas, names_in
from orchestrator.cluster.sync.log_stream import Sender
from orchestrator.errors import DataError, OrchestrateError, SweepConflict
from orchestrator.results.sweep_file import read_sweep
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.sweep_storage import SweepStorage

_ATTEMPTS = 10
_CACHE = "ORCHESTRATE_CACHE"


def pack(
    out: Path,
    held: Contents,
    everything: bool,
    say: Callable[[str], None],
    refresh: Callable[[Path], object],
) -> None:
    """Says a sweep's parcel, line by line; the sweep may be running.

    Args:
        out: its folder.
        held: what the receiver has; the same files are not sent again.
        everything: also what only another command would need (asks, all adapters, logs).
        say: prints one line.
        refresh: writes registry and report from the ledger, which a sweep does at its end only.

    `InvalidInput` if there is no sweep, `SweepConflict` if the receiver's is another one.
    """
    paths = SweepPaths(out)
    sweep = read_sweep(paths).id
    check_same(held.sweep, sweep)
    if _outdated(paths):
        _try(lambda: refresh(out), say)
    sender = Sender(say)
    # The fastest level: Parquet and weights do not get smaller, JSON and HTML do at any.
    with (
        gzip.GzipFile(fileobj=cast(IO[bytes], sender), mode="wb", compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        files: dict[str, str] = {}
        for area in areas(everything):
            files |= _pack_area(archive, out, area, held)
        _add(archive, NAME, Contents(sweep, files).dump())
    sender.end()


@contextmanager
def at_hand(out: str) -> Iterator[Path]:
    """The sweep's folder; for a while a copy, where it lies in an object store.

    Not the copy of a command that may be running on this machine, which has what is not there yet.
    """
    if "://" not in out:
        yield Path(out).expanduser()
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[_CACHE] = folder
        storage = SweepStorage.at(out)
        for area in areas(everything=True):  # the report after the ledger that it is of
            path = storage.paths.out / area
            (storage.download if path.suffix else storage.sync_down)(path)
        yield storage.paths.out


def check_same(here: str, there: str) -> None:
    """`SweepConflict` if the folder at home has another sweep than this one (empty: none)."""
    if here not in ("", there):
        raise SweepConflict(
            f"the folder at home holds another sweep (id {here}; this one has {there}); name a new "
            "folder: `orchestrate fetch ID DIR`."
        )


def _outdated(paths: SweepPaths) -> bool:
    """Whether the ledger has a file that is younger than the report."""
    rows = [paths.out / name for name in names_in(paths.out, Path(paths.ledger).name)]
    if not rows or not paths.report.exists():
        return bool(rows)
    return paths.report.stat().st_mtime < max((row.stat().st_mtime for row in rows), default=0)


def _try(refresh: Callable[[], object], say: Callable[[str], None]) -> None:
    """The ledger comes home even where its report cannot be written."""
    try:
        refresh()
    except OrchestrateError as error:
        say(f"notice: registry and report are as they were last written: {error}")


def _pack_area(archive: tarfile.TarFile, out: Path, area: str, held: Contents) -> dict[str, str]:
    """Path → SHA-256 of all that an area has at one moment; what the receiver lacks is added."""
    sent: dict[str, str] = dict(held.files)
    for _ in range(_ATTEMPTS):
        before, found = _inode(out / area), {}
        try:
            for name in names_in(out, area):
                data = (out / name).read_bytes()
                found[name] = hashlib.sha256(data).hexdigest()
                if sent.get(name) != found[name]:
                    _add(archive, name, data)
                    sent[name] = found[name]
        except FileNotFoundError:
            continue  # a compaction, or a registry that was swapped: its files are other ones now
        if _inode(out / area) == before:
            return found
    raise DataError(f"'{out / area}' changes while it is read. Try again.")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
