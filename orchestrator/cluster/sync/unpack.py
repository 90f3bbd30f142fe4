"""At home: a parcel's files, checked and put in their places."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.sync.contents import NAME, Contents, areas, contents
from orchestrator.cluster.sync.pack import check_same
from orchestrator.data.download.archives import unpack
from orchestrator.errors import DataError, InvalidInput
from orchestrator.registry import INDEX, WEIGHTS, read_index
from orchestrator.results.sweep_file import SweepFile
from orchestrator.storage.files import fingerprint, make_folder, sync_folder, write_whole
from orchestrator.storage.sweep_paths import SweepPaths

_DRAFT = ".parcel"


@dataclass(frozen=True)
class Arrived:
    """How many files a parcel brought, and how many were there already."""

    new: int
    kept: int


def held(folder: Path, everything: bool) -> Contents:
    """What the folder has of a sweep; nothing if it is new or empty.

    `InvalidInput` if it is no folder, or holds something else.
    """
    if not folder.exists():
        return Contents()
    if not folder.is_dir():
        raise InvalidInput(f"'{folder}' is no folder; name another one.")
    found = SweepFile.read(SweepPaths(folder))
    if found is not None:
        return contents(folder, found.id, everything)
    if other := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        raise InvalidInput(
            f"'{folder}' holds no sweep but other files ({', '.join(other[:3])}); name a new "
            "folder."
        )
    return Contents()


def put(archive: Path, folder: Path) -> Arrived:
    """Puts the files of an archive that `pack` made into a sweep's folder; nothing is deleted.

    Every file is whole before and after, also if this is killed; then the same call does the rest.
    `DataError` if the archive or a file in it is damaged, `SweepConflict` if the folder has another
    sweep: then nothing is changed.
    """
    make_folder(folder)
    draft = folder / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    try:
        unpack(archive, draft, lambda *_: None)
        listed = _listed(draft)
        before = SweepFile.read(SweepPaths(folder))
        check_same(before.id if before else "", listed.sweep)
        new = [name for name in _in_order(listed) if (draft / name).exists()]
        _check(listed, draft, folder, set(new))
        for name in new:
            make_folder((folder / name).parent)
            os.replace(draft / name, folder / name)
            sync_folder((folder / name).parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _restore_adapters(SweepPaths(folder))
    return Arrived(len(new), len(listed.files) - len(new))


def _listed(draft: Path) -> Contents:
    try:
        return Contents.load((draft / NAME).read_bytes())
    except OSError as error:
        raise DataError("the parcel has no list of its files; fetch it again.") from error


def _in_order(listed: Contents) -> list[str]:
    """The sweep's file first: it says whose folder this is. An index after what it names."""
    paths = areas(everything=True)
    return sorted(
        listed.files, key=lambda n: (paths.index(n.partition("/")[0]), n.endswith(INDEX), n)
    )


def _check(listed: Contents, draft: Path, folder: Path, new: set[str]) -> None:
    for name, sha256 in listed.files.items():
        path = (draft if name in new else folder) / name
        if not path.is_file() or fingerprint(path) != sha256:
            raise DataError(
                f"'{name}' is not as it was sent, or changed here meanwhile. Nothing was changed; "
                "fetch it again."
            )


def _restore_adapters(paths: SweepPaths) -> None:
    """What the registry exports comes from `adapters`, which did not travel: it is the same."""
    if not (paths.registry / INDEX).exists():
        return
    root = paths.registry.resolve()
    for entry in read_index(paths.registry).entries:
        source, target = (root / entry.path).resolve(), paths.adapters / entry.key
        if not source.is_relative_to(root) or target.parent != paths.adapters:
            raise DataError(f"entry '{entry.task}/{entry.adapter}' of the registry points outside.")
        for name in WEIGHTS:
            if not (target / name).exists():
                make_folder(target)
                write_whole(target / name, (source / name).read_bytes())
