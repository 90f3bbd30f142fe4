"""Suggestions on disk, written before their trial is handed out: it comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.errors import LedgerError
from orchestrator.storage.files import make_folder, storage_error, write_whole


@dataclass(frozen=True)
class Suggestion:
    """Configuration number `index` of a study: the searched fields' values and its trial's key."""

    index: int
    values: Mapping[str, Any]
    key: str


class SuggestionStore:
    """`<root>/<task>--<adapter>/<index>.json`, one small file per suggestion, whole or absent.

    Studies go by their names (`Study.name`).

    A sampler's answer depends on what had finished when it was asked; without these files an
    interrupted sweep would ask for other configurations than the ones it had begun. `publish` makes
    a file visible to other machines, where the folder alone does not.
    """

    def __init__(self, root: Path, publish: Callable[[Path], None] = lambda _: None) -> None:
        self.root = root
        self._publish = publish

    def load(self, study: str) -> list[Suggestion]:
        """The suggestions of one study by index; `LedgerError` names a file that is damaged."""
        return [_read(path) for path in sorted(self._folder(study).glob("*.json"))]

    def record(self, study: str, suggestion: Suggestion) -> None:
        """Put one suggestion on the disk; `StorageError` if the folder cannot be written."""
        path = self.path(study, suggestion.index)
        content = json.dumps(asdict(suggestion), indent=1, allow_nan=False)
        try:
            make_folder(path.parent)
            write_whole(path, content.encode())
        except OSError as error:
            raise storage_error(f"write the suggestion '{path}'", error) from error
        self._publish(path)

    def path(self, study: str, index: int) -> Path:
        """The file of one suggestion."""
        return self._folder(study) / f"{index:05d}.json"

    def _folder(self, study: str) -> Path:
        return self.root / "--".join(quote(part, safe="") for part in study.split("/"))


def _read(path: Path) -> Suggestion:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        suggestion = Suggestion(content["index"], dict(content["values"]), content["key"])
        if f"{suggestion.index:05d}.json" != path.name or not isinstance(suggestion.key, str):
            raise ValueError("its index or key does not belong to this file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"the suggestion '{path}' cannot be read ({error}). Move the file away and run the "
            "same command again: unless its trial had finished, another one is asked for."
        ) from error
    return suggestion
