"""On this machine: verify an archive made by `pack` and move its files into the sweep's folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.sync.file_list import NAME, FileList, entries, list_files
from orchestrator.cluster.sync.pack import check_same
from orchestrator.data.download.archives import unpack
from orchestrator.errors import DataError, InvalidInput
from orchestrator.registry import INDEX, WEIGHTS, read_index
from orchestrator.results.sweep_file import SweepFile
from orchestrator.storage.files import fingerprint, make_folder, sync_folder, write_whole
from orchestrator.storage.sweep_paths import SweepPaths

_TEMPORARY = ".sync"


@dataclass(frozen=True)
class SyncResult:
    """How many files are new, and how many were there already."""

    new: int
    unchanged: int


def existing_files(folder: Path, everything: bool) -> FileList:
    """The sweep's files in a folder; none if it is new or empty.

    `InvalidInput` if it is not a folder, or holds something else.
    """
    if not folder.exists():
        return FileList()
    if not folder.is_dir():
        raise InvalidInput(f"'{folder}' is a file; name a folder.")
    found = SweepFile.read(SweepPaths(folder))
    if found is not None:
        return list_files(folder, found.id, everything)
    if other := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise InvalidInput(
            f"'{folder}' holds no sweep but other files ({', '.join(other[:3])}); name a new "
            "folder."
        )
    return FileList()


def merge(archive: Path, folder: Path) -> SyncResult:
    """Move the files of an archive into a sweep's folder; nothing is deleted.

    Every file is replaced atomically; after a kill the same call does the rest. Raises `DataError`
    if the archive or a file in it is damaged and `SweepConflict` if the folder has another sweep:
    then nothing is changed.
    """
    make_folder(folder)
    temporary = folder / _TEMPORARY
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        unpack(archive, temporary, lambda *_: None, updates=True)
        try:
            listed = FileList.load((temporary / NAME).read_bytes())
        except OSError as error:
            raise DataError("the archive has no list of its files; fetch again.") from error
        before = SweepFile.read(SweepPaths(folder))
        check_same(before.id if before else "", listed.sweep)
        new = [name for name in _in_order(listed) if (temporary / name).exists()]
        _verify(listed, temporary, folder, set(new))
        for name in new:
            make_folder((folder / name).parent)
            os.replace(temporary / name, folder / name)
            sync_folder((folder / name).parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _restore_adapters(SweepPaths(folder))
    return SyncResult(len(new), len(listed.files) - len(new))


def _in_order(listed: FileList) -> list[str]:
    """sweep.json first: it says whose folder this is. An index after the files that it names."""
    order = entries(everything=True)
    return sorted(
        listed.files, key=lambda n: (order.index(n.partition("/")[0]), n.endswith(INDEX), n)
    )


def _verify(listed: FileList, temporary: Path, folder: Path, new: set[str]) -> None:
    for name, sha256 in listed.files.items():
        path = (temporary if name in new else folder) / name
        if not path.is_file() or fingerprint(path) != sha256:
            raise DataError(
                f"'{name}' differs from the file that was sent, or changed here meanwhile. Nothing "
                "was changed; fetch again."
            )


def _restore_adapters(paths: SweepPaths) -> None:
    """Copy the registry's weights to `adapters`, from which the registry is exported."""
    if not (paths.registry / INDEX).exists():
        return
    root = paths.registry.resolve()
    for entry in read_index(paths.registry).entries:
        source, target = (root / entry.path).resolve(), paths.adapters / entry.key
        if not source.is_relative_to(root) or target.parent != paths.adapters:
            raise DataError(
                f"entry '{entry.task}/{entry.adapter}' of the registry leads outside its folder; "
                "fetch again."
            )
        for name in WEIGHTS:
            if not (target / name).exists():
                make_folder(target)
                write_whole(target / name, (source / name).read_bytes())
