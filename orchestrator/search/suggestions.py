"""Suggestions on disk, each written before its trial starts, so that a resumed sweep repeats it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from orchestrator.errors import LedgerError
from orchestrator.storage.files import make_folder, read_json, reason, storage_error, write_whole


@dataclass(frozen=True)
class Suggestion:
    """Configuration number `index` of a study: the searched fields' values and its trial's key.

    `informed_by` names the searches that chose it, or `published`; empty if the sampler did.
    """

    index: int
    values: Mapping[str, Any]
    key: str
    informed_by: tuple[str, ...] = ()


class SuggestionStore:
    """One file per suggestion, `<root>/<task>--<adapter>/<index>.json`, written atomically.

    A sampler's suggestion depends on the results at that time: without these files a resumed sweep
    would suggest other configurations than those that it had started. `upload` copies a file to the
    sweep's object store, if it has one. Studies are named by `Study.name`.
    """

    def __init__(self, root: Path, upload: Callable[[Path], None] = lambda _: None) -> None:
        self.root = root
        self._upload = upload

    def load(self, study: str) -> list[Suggestion]:
        """The suggestions of a study by index; `LedgerError` names a damaged file."""
        return [_read(path) for path in sorted(self._folder(study).glob("*.json"))]

    def keys(self, left_out: Callable[[str], None]) -> dict[str, set[str]]:
        """Study → the keys of its search trials; `left_out` is told of a damaged study."""
        found: dict[str, set[str]] = {}
        try:
            folders = sorted(self.root.iterdir())
        except FileNotFoundError:
            return found
        except OSError as error:
            left_out(f"the suggestions in '{self.root}' cannot be read: {reason(error)}")
            return found
        for folder in folders:
            study = "/".join(map(unquote, folder.name.split("--")))
            try:
                found[study] = {suggestion.key for suggestion in self.load(study)}
            except LedgerError as error:
                left_out(str(error))
        return found

    def record(self, study: str, suggestion: Suggestion) -> None:
        """Write a suggestion; `StorageError` if the folder cannot be written."""
        path = self.path(study, suggestion.index)
        content = json.dumps(asdict(suggestion), indent=1, allow_nan=False)
        try:
            make_folder(path.parent)
            write_whole(path, content.encode())
        except OSError as error:
            raise storage_error(f"write the suggestion '{path}'", error) from error
        self._upload(path)

    def path(self, study: str, index: int) -> Path:
        """The file of one suggestion."""
        return self._folder(study) / f"{index:05d}.json"

    def _folder(self, study: str) -> Path:
        return self.root / "--".join(quote(part, safe="") for part in study.split("/"))


def _read(path: Path) -> Suggestion:
    try:
        content = read_json(path)
        own = (content["index"], dict(content["values"]), content["key"])
        suggestion = Suggestion(*own, tuple(map(str, content.get("informed_by", ()))))
        if f"{suggestion.index:05d}.json" != path.name or not isinstance(suggestion.key, str):
            raise ValueError("its index or key does not belong to this file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"the suggestion '{path}' cannot be read ({reason(error)}). Move the file away and run "
            "the same command again: unless its trial has a result, another one is suggested."
        ) from error
    return suggestion
