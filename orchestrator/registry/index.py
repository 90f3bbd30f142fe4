"""`index.json` and the names of a registry's files: their records, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import CheckpointError, InvalidInput, unknown
from orchestrator.spec import digest
from orchestrator.storage import files

INDEX, CONFIG, EVIDENCE = "index.json", "config.json", "evidence.json"
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
CHECKED = (CONFIG, *WEIGHTS)
"""The files of an entry that decide what its model computes; the index has their fingerprints."""
LEAKS = (
    "LEAKS: configuration and epoch were chosen on the test split (protocol {protocol}), so that "
    "the stated accuracies are too high to be estimates of accuracy on new images."
)
AGAIN = "Write it again: `orchestrate export DIR`."


class RegistryEntry(BaseModel):
    """One entry of the index. Accuracies are in [0, 1].

    `test_accuracy` is that of the exported weights: the first seed after its last epoch.
    `test_mean`, `test_std` and `test_interval` (95 %, Student t) are over the values of all seeds,
    which are those of the best epochs under the protocol `paper`. `config` is the hash of params
    and recipe, `weights` and `data` are fingerprints of the backbone and of the task, `sha256`
    those of the entry's files by name. `leaks`: the protocol chose on the test split; `warning`
    says so in words (empty otherwise).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    backbone: str
    task: str
    adapter: str
    protocol: str
    leaks: bool
    warning: str
    path: str
    classes: int
    seed: int
    key: str
    test_accuracy: float
    test_mean: float
    test_std: float | None
    test_interval: tuple[float, float] | None
    seeds: int
    config: str
    parameters: int
    weights: str
    data: str
    sha256: dict[str, str]


class Index(BaseModel):
    """`index.json`: every exported entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    created: float
    entries: tuple[RegistryEntry, ...]
    checksum: str = ""
    """SHA-256 (hex) of the entries; indexes of earlier versions lack it."""

    def sealed(self) -> Index:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def is_sound(self) -> bool:
        """Whether the entries are those that the checksum was made of."""
        return self.checksum in ("", self._digest())

    def _digest(self) -> str:
        return digest([entry.model_dump(mode="json") for entry in self.entries])

    def find(
        self, task: str, adapter: str, suite: str | None = None, backbone: str | None = None
    ) -> RegistryEntry:
        """The entry of that name; `InvalidInput` with the alternatives if none or several fit."""
        found = [e for e in self.entries if (e.task, e.adapter) == (task, adapter)]
        found = [e for e in found if suite in (None, e.suite) and backbone in (None, e.backbone)]
        if not found:
            where = [("suite", suite), ("backbone", backbone)]
            given = [(name, value) for name, value in where if value is not None]
            wanted = [f"{task}/{adapter}", *(f"{name}={value}" for name, value in given)]
            every = [
                [f"{e.task}/{e.adapter}", *(f"{name}={getattr(e, name)}" for name, _ in given)]
                for e in self.entries
            ]
            raise unknown("registry entry", " ".join(wanted), map(" ".join, every))
        if len(found) > 1:
            shown = "; ".join(f"suite={e.suite} backbone={e.backbone}" for e in found)
            raise InvalidInput(
                f"'{task}/{adapter}' names several entries ({shown}); add suite= or backbone=."
            )
        return found[0]


def read_index(registry: Path) -> Index:
    """The index of a registry: `InvalidInput` if there is none, `CheckpointError` if damaged."""
    path = registry / INDEX
    try:
        index = Index.model_validate_json(files.read_file(path))
    except OSError as error:
        raise InvalidInput(
            f"'{registry}' is no registry ({INDEX}: {error.strerror}); give the `registry` folder "
            "of a sweep, or run `orchestrate export DIR`."
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "its text"
        raise CheckpointError(
            f"'{path}' is damaged at {where}: {problem['msg']}. {AGAIN}"
        ) from error
    if not index.is_sound():
        raise CheckpointError(
            f"'{path}' is damaged or edited by hand: its entries do not match its checksum. {AGAIN}"
        )
    return index


def label(protocol: str) -> dict[str, str]:
    """What a file says of the protocol; a warning where it chose on the test split."""
    found = {"protocol": protocol}
    return found if protocol == "honest" else found | {"warning": LEAKS.format(protocol=protocol)}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    files.write_whole(path, f"{text}\n".encode())


def path_component(name: str) -> str:
    """A name as one path component that cannot leave its folder."""
    quoted = quote(name, safe=" ")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")
