"""The options of `orchestrate sweep`, from the command line or a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.errors import InvalidInput, unknown
from orchestrator.storage.addresses import check_address
from orchestrator.storage.files import check_path
from orchestrator.storage.yaml import parse_yaml, read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_DAYS = 3650
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?", re.ASCII)
_TEXTS = (
    "backbone", "preset", "recipe", "sampler", "stopping", "protocol", "splits",
    "device", "precision", "address", "tracking_uri", "out",
)  # fmt: skip
_PATHS = ("suite", "out", "data_root", "suite_root")


class SweepConfig(BaseModel):
    """The fields of `--config FILE`; the command line's options have the same names and win."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    suite: str
    adapter: tuple[str, ...] | None = Field(None, min_length=1)
    tasks: tuple[str, ...] | None = Field(None, min_length=1)
    backbone: str | None = None
    preset: str | None = None
    recipe: str | None = None
    sampler: str | None = None
    prior: tuple[str, ...] = ()
    stopping: str | None = None
    protocol: str | None = None
    trials: int | None = Field(None, ge=1, le=1_000_000, strict=True)
    seeds: int | None = Field(None, ge=1, le=1_000, strict=True)
    replicate: int | None = Field(None, ge=1, le=1_000_000, strict=True)
    splits: str | None = None
    with_default: bool = Field(False, strict=True)
    epochs: int | None = Field(None, ge=1, le=1_000_000, strict=True)
    set: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)
    time_budget: str | None = None
    device: str = "auto"
    precision: str | None = None
    backend: Literal["ray", "local"] = "ray"
    address: str | None = None
    width: int | None = Field(None, ge=1, le=1024, strict=True)
    tracking_uri: str | None = None
    out: str | None = None
    data_root: Path | None = None
    suite_root: Path | None = None

    @field_validator("adapter", "tasks", "prior", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """`a,b`, one name, or a list."""
        names = tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value
        if isinstance(names, tuple | list) and any(name in ("", None) for name in names):
            raise ValueError("a name in it is empty")
        return names

    @field_validator(*_TEXTS, mode="before")
    @classmethod
    def _keep_text(cls, value: Any) -> Any:
        """A path as text, since `Path` would remove a slash from an address."""
        if value == "":
            raise ValueError("it is empty; leave it out")
        return str(value) if isinstance(value, Path) else value

    @property
    def location(self) -> str:
        """The output folder or address; by default `runs/NAME` of the suite (or of its file)."""
        return self.out if self.out is not None else str(Path("runs") / Path(self.suite).stem)

    @property
    def budget_seconds(self) -> float | None:
        """The time budget in seconds."""
        return None if self.time_budget is None else seconds_of(self.time_budget)


def make_config(given: Mapping[str, Any], file: Path | None) -> SweepConfig:
    """The configuration of a command; given values that are not None override the file's.

    `set` and `space` are merged by key: `--set lr=1` keeps the other fields of the file's `set`.
    """
    values = read_yaml(file, "configuration") if file else {}
    for name, value in given.items():
        if value is not None:
            merged = isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
            values[name] = {**values[name], **value} if merged else value
    try:
        config = SweepConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        inner = {problem["loc"][0] for problem in found if len(problem["loc"]) > 1}
        wrong = [p for p in found if len(p["loc"]) > 1 or p["loc"][0] not in inner]
        raise InvalidInput("\n".join(map(_sentence, wrong))) from None
    if config.time_budget is not None:
        seconds_of(config.time_budget)
    check_device(config.device)
    if config.address is not None:
        check_address(config.address, "--address")
    if config.tracking_uri is not None and config.tracking_uri.startswith(("http://", "https://")):
        check_address(config.tracking_uri.rpartition("@")[2], "--tracking-uri")
    for name in _PATHS:
        path = getattr(config, name)
        if path is not None and "://" not in str(path):
            check_path(path, f"'{name}'")
    return config


def check_device(name: str) -> None:
    """`InvalidInput` for a name that no device has; whether it is there, its machine says."""
    if not _DEVICE.fullmatch(name):
        raise InvalidInput(f"device '{name:.80}' is none; allowed: auto, cpu, cuda, cuda:N.")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`FIELD=VALUE` texts → field → value, read as YAML; text that is none stays text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            raise InvalidInput(
                f"--set '{pair:.80}' is not FIELD=VALUE, for example --set lr=0.005."
            )
        try:
            settings[name] = parse_yaml(text)
        except ValueError:
            settings[name] = text
    return settings


def seconds_of(text: str) -> float:
    """`90`, `90s`, `30m`, `8h`, `2d` in seconds; `InvalidInput` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip(), re.ASCII)
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if not 0 < seconds <= _MOST_DAYS * _UNITS["d"]:
        raise InvalidInput(
            f"--time-budget '{text:.80}' is not a duration; write 90s, 30m, 8h or 2d "
            f"(at most {_MOST_DAYS}d)."
        )
    return seconds


def _sentence(problem: ErrorDetails) -> str:
    """One of pydantic's errors as a sentence."""
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return str(unknown("configuration field", name, SweepConfig.model_fields))
    why = problem["msg"].removeprefix("Value error, ")
    why = why[:1].lower() + why[1:]
    return f"'{name}' is {problem['input']!r:.80}: {why}."
