"""`index.json` and the names of a registry's files: their records, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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


_MOST_PROBLEMS = 5
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class RegistryEntry(BaseModel):
    """One entry of the index. Accuracies are in [0, 1].

    `test_accuracy` is that of the exported weights: the first seed after its last epoch.
    `test_mean`, `test_std` and `test_interval` (95 %, Student t) are over the values of all seeds,
    which are those of the best epochs under the protocol `paper`. `config` is the hash of params
    and recipe, `weights` and `data` are fingerprints of the backbone and of the task, `sha256`
    those of the entry's files by name (`evidence.json` since later). `leaks`: the protocol chose on
    the test split; `warning` says so in words (empty otherwise).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: Name
    backbone: Name
    task: Name
    adapter: Name
    protocol: Literal["honest", "paper"]
    leaks: bool
    warning: str
    path: Name
    classes: int = Field(ge=1, le=1_000_000)
    seed: int = Field(ge=0)
    key: Name
    test_accuracy: Share
    test_mean: Share
    test_std: Share | None
    test_interval: tuple[Finite, Finite] | None
    seeds: int = Field(ge=1)
    config: Name
    parameters: int = Field(ge=0)
    weights: Name
    data: Name
    sha256: dict[str, Sha256]

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.leaks != (self.protocol != "honest") or (self.leaks and not self.warning):
            raise ValueError(f"'leaks' and 'warning' are not those of protocol '{self.protocol}'")
        return self


class Index(BaseModel):
    """`index.json`: every exported entry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    created: Finite
    entries: tuple[RegistryEntry, ...]
    checksum: str = ""
    """SHA-256 (hex) of everything else here; indexes of earlier versions lack it."""

    def sealed(self) -> Index:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def is_sound(self) -> bool:
        """Whether the content is what the checksum was made of."""
        entries = [entry.model_dump(mode="json") for entry in self.entries]
        # Before the checksum covered the whole file it was that of the entries.
        return self.checksum in ("", self._digest(), digest(entries))

    def _digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"checksum"}))

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
        # Strict: a word where a number belongs is damage, not something to convert.
        index = Index.model_validate_json(json.dumps(files.read_json(path)), strict=True)
    except OSError as error:
        raise InvalidInput(
            f"'{registry}' is no registry ({INDEX}: {files.reason(error)}); give the `registry` "
            "folder of a sweep, or run `orchestrate export DIR`."
        ) from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or 'its text'}: {problem['msg']}"
            for problem in error.errors(include_url=False)[:_MOST_PROBLEMS]
        ]
        more = f"; and {error.error_count() - len(problems)} more" if problems[4:] else ""
        raise CheckpointError(
            f"'{path}' is damaged at {'; '.join(problems)}{more}. {AGAIN}"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"'{path}' is damaged at its text: {files.reason(error)}. {AGAIN}"
        ) from error
    if not index.is_sound():
        raise CheckpointError(
            f"'{path}' is damaged or edited by hand: its content does not match its checksum. "
            f"{AGAIN}"
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
