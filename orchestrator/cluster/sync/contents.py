"""Which files of a sweep's folder travel, and what they hold."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.data.download.archives import inside
from orchestrator.errors import DataError
from orchestrator.storage.files import fingerprint

NAME = "contents.json"
"""The archive's own list, its last member."""
AREAS = ("sweep.json", "ledger", "sheets", "pools", "registry", "report.html")
"""What every parcel has, in the order in which it is put in its place. `report` draws on sheets
and pools; the adapters that it exports are made from the registry.
"""
MORE = ("asks", "adapters", "logs")
"""What goes along on demand."""
_DRAFT = re.compile(r"\.\d+\.[0-9a-f]{8}$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Contents:
    """The id of a sweep (empty: none) and its files: path below its folder → SHA-256 (hex)."""

    sweep: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> Contents:
        """Back from JSON; `DataError` if it is none, or if a path leads outside."""
        try:
            read = json.loads(data)
            found = cls(str(read["sweep"]), dict(read["files"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"the list of a parcel cannot be read ({error!r}).") from error
        for name, sha256 in found.files.items():
            if not _ours(name) or not _SHA256.fullmatch(str(sha256)):
                raise DataError(
                    f"the list of a parcel names {name!r}, which does not belong in it."
                )
        return found


def areas(everything: bool) -> tuple[str, ...]:
    """The files and folders that travel."""
    return (*AREAS, *MORE) if everything else AREAS


def names_in(out: Path, area: str) -> Iterator[str]:
    """The files of an area (itself, if it is one), sorted: no hidden ones, links or drafts."""
    if (out / area).is_file():
        yield area
    for folder, folders, files in os.walk(out / area):
        folders[:] = sorted(name for name in folders if not _passing(name))
        for name in sorted(files):
            path = Path(folder) / name
            if not _passing(name) and not path.is_symlink():
                yield path.relative_to(out).as_posix()


def contents(out: Path, sweep: str, everything: bool) -> Contents:
    """What a folder holds of a sweep."""
    names = [name for area in areas(everything) for name in names_in(out, area)]
    return Contents(sweep, {name: fingerprint(out / name) for name in names})


def _passing(name: str) -> bool:
    return name.startswith(".") or name == "tmp" or bool(_DRAFT.search(name))


def _ours(name: object) -> bool:
    path = inside(name) if isinstance(name, str) else None
    return path is not None and path.as_posix() == name and path.parts[0] in areas(True)
