"""Which files of a sweep's folder are copied, with their SHA-256."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orchestrator.data.download.members import inside
from orchestrator.errors import DataError
from orchestrator.storage.files import fingerprint

NAME = "contents.json"
"""The list of all files, the last member of the archive."""
DEFAULT_ENTRIES = ("sweep.json", "ledger", "sheets", "pools", "registry", "report.html")
"""What is always copied, in the order in which it is moved into place. `report` needs sheets and
pools; the adapters that it exports are restored from the registry.
"""
EXTRA_ENTRIES = ("asks", "adapters", "predictions", "logs")
"""What is copied on request."""
_TEMPORARY = re.compile(r"\.\d+\.[0-9a-f]{8}$")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileList:
    """The id of a sweep (empty: none) and its files: path below its folder → SHA-256 (hex)."""

    sweep: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> FileList:
        """From JSON; `DataError` if it is malformed, or if a path does not belong to a sweep."""
        try:
            read = json.loads(data)
            found = cls(str(read["sweep"]), dict(read["files"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the list of files cannot be read ({error!r}); fetch again."
            ) from error
        for name, sha256 in found.files.items():
            if not _is_allowed(name) or not _SHA256.fullmatch(str(sha256)):
                raise DataError(f"the list of files has {name!r}, which is not a sweep's file.")
        return found


def entries(everything: bool) -> tuple[str, ...]:
    """The files and folders of a sweep that are copied."""
    return (*DEFAULT_ENTRIES, *EXTRA_ENTRIES) if everything else DEFAULT_ENTRIES


def names_in(out: Path, entry: str) -> Iterator[str]:
    """The files below an entry, sorted; without hidden files, links and temporary files."""
    if (out / entry).is_file():
        yield entry
    for folder, folders, files in os.walk(out / entry):
        folders[:] = sorted(name for name in folders if not _is_temporary(name))
        for name in sorted(files):
            path = Path(folder) / name
            if not _is_temporary(name) and not path.is_symlink():
                yield path.relative_to(out).as_posix()


def list_files(out: Path, sweep: str, everything: bool) -> FileList:
    """The files of a sweep in a folder."""
    names = [name for entry in entries(everything) for name in names_in(out, entry)]
    return FileList(sweep, {name: fingerprint(out / name) for name in names})


def _is_temporary(name: str) -> bool:
    return name.startswith(".") or name == "tmp" or bool(_TEMPORARY.search(name))


def _is_allowed(name: object) -> bool:
    path = inside(name) if isinstance(name, str) else None
    return path is not None and path.as_posix() == name and path.parts[0] in entries(True)
