"""`sweep.json`: what a folder's sweep is, so that the same command can go on with it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import InvalidInput
from orchestrator.spec import PROTOCOLS, DataIdentity, Suite, Sweep, digest
from orchestrator.storage.files import read_json, reason, storage_error, write_whole
from orchestrator.storage.sweep_paths import SweepPaths

_CHECKSUM = "checksum"


@dataclass(frozen=True)
class SweepFile:
    """The sweep with the identities of what it reads. `id` never changes while the folder lives.

    `counts` has the images of each task by split.
    """

    id: str
    sweep: Sweep
    suite: Suite
    counts: Mapping[str, Mapping[str, int]]
    data: Mapping[str, DataIdentity]
    weights: str
    command: str
    created: float

    @classmethod
    def new(
        cls,
        sweep: Sweep,
        suite: Suite,
        counts: Mapping[str, Mapping[str, int]],
        data: Mapping[str, DataIdentity],
        weights: str,
        command: str,
    ) -> SweepFile:
        """A sweep that begins now."""
        created = time.time()
        name = digest([asdict(sweep), created])[:16]
        command = command.encode(errors="backslashreplace").decode()  # bytes that are no text
        return cls(name, sweep, suite, counts, data, weights, command, created)

    def write(self, paths: SweepPaths) -> None:
        """Writes `sweep.json` with its checksum, whole; `StorageError` if that is refused."""
        content = asdict(self)
        text = json.dumps({**content, _CHECKSUM: digest(content)}, indent=2)
        try:
            write_whole(paths.sweep, f"{text}\n".encode())
        except OSError as error:
            raise storage_error(f"write '{paths.sweep}'", error) from error

    @classmethod
    def read(cls, paths: SweepPaths) -> SweepFile | None:
        """The sweep of the folder, None if there is none; `InvalidInput` if it is damaged."""
        try:
            content = read_json(paths.sweep)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InvalidInput(
                f"'{paths.shown(paths.sweep)}' cannot be read: {reason(error)}. Make the folder "
                "and the file readable, or name another folder."
            ) from error
        except ValueError as error:
            raise _damaged(paths, error) from error
        try:
            if isinstance(content, dict):
                checksum = content.pop(_CHECKSUM, None)  # files of earlier versions lack it
                if checksum is not None and checksum != digest(content):
                    raise InvalidInput("its content does not match its checksum")
                _rename(content)
            # Strict: a word where a number belongs is damage, not something to convert.
            found = TypeAdapter(cls).validate_json(json.dumps(content), strict=True)
        except (ValueError, InvalidInput) as error:
            raise _damaged(paths, error) from error
        if wrong := found._contradictions():
            raise _damaged(paths, ValueError("; ".join(wrong)))
        return found

    def _contradictions(self) -> list[str]:
        """What of the sweep cannot be, or does not fit its suite or its data."""
        sweep, known = self.sweep, {task.name for task in self.suite.tasks}
        wrong = []
        if sweep.suite != self.suite.name:
            wrong.append(f"sweep.suite: '{sweep.suite}'; its suite is '{self.suite.name}'")
        for name, allowed in (
            ("tasks", known & self.data.keys()),
            ("adapters", set(sweep.adapters)),
            ("protocols", set(PROTOCOLS)),
        ):
            values = getattr(sweep, name)
            if not values or len(set(values)) < len(values) or not allowed.issuperset(values):
                names = f"each once, of {', '.join(sorted(allowed))}" if allowed else "at least one"
                wrong.append(f"sweep.{name}: {', '.join(values) or 'none'}; allowed: {names}")
        for name, least in (("seeds", 1), ("replicate", 0), ("trials", 1)):
            number = getattr(sweep, name)
            if number is not None and number < least:
                wrong.append(f"sweep.{name}: {number}; allowed: {least} or more")
        return wrong


def _rename(content: dict[str, Any]) -> None:
    """What earlier versions wrote under another name."""
    sweep = content.get("sweep")
    if isinstance(sweep, dict) and (kind := sweep.pop("warm_start", "none")) != "none":
        sweep["prior"] = [kind]


def read_sweep(paths: SweepPaths) -> SweepFile:
    """The sweep of the folder; `InvalidInput` if it holds none."""
    found = SweepFile.read(paths)
    if found is None:
        raise InvalidInput(
            f"'{paths.name}' holds no sweep ({paths.sweep.name} is missing); give the --out "
            "folder of one."
        )
    return found


def _damaged(paths: SweepPaths, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"'{paths.shown(paths.sweep)}' is damaged ({_why(error)}); restore it, or move it away: "
        "the same command writes it again, and the ledger's results stay."
    )


def _why(error: Exception) -> str:
    """The first problem in one line."""
    if not isinstance(error, ValidationError):
        return reason(error)
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"])) or "its text"
    return f"{where}: {problem['msg']}"
