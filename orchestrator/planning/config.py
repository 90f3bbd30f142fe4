"""The options of `orchestrate sweep`, from the command line or a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.errors import InvalidInput, unknown
from orchestrator.storage.yaml import read_yaml

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
    warm_start: str | None = None
    stopping: str | None = None
    protocol: str | None = None
    trials: int | None = Field(None, ge=1, le=1_000_000, strict=True)
    seeds: int | None = Field(None, ge=1, le=1_000, strict=True)
    replicate: int | None = Field(None, ge=1, le=1_000_000, strict=True)
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

    @field_validator("adapter", "tasks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """`a,b`, one name, or a list."""
        return tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value

    @field_validator("out", mode="before")
    @classmethod
    def _keep_uri(cls, value: Any) -> Any:
        """As text: `Path` would remove a slash from an address."""
        return str(value) if isinstance(value, Path) else value

    @field_validator("set", mode="after")
    @classmethod
    def _numbers(cls, value: dict[str, Any]) -> dict[str, Any]:
        """YAML 1.1 reads 1e-3, without a point, as text."""
        return {name: _scalar(v) if isinstance(v, str) else v for name, v in value.items()}

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
        raise InvalidInput(_first_problem(error)) from None
    if config.time_budget is not None:
        seconds_of(config.time_budget)
    return config


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`FIELD=VALUE` texts → field → value, read as YAML scalars (1e-3 is a number too)."""
    settings = {}
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            raise InvalidInput(f"--set '{pair}' is not FIELD=VALUE, for example --set lr=0.005.")
        settings[name] = _scalar(text)
    return settings


def seconds_of(text: str) -> float:
    """`90`, `90s`, `30m`, `8h`, `2d` in seconds; `InvalidInput` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InvalidInput(f"--time-budget '{text}' is not a duration; write 90s, 30m, 8h or 2d.")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _scalar(text: str) -> Any:
    try:
        return (
            float(text) if re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", text) else yaml.safe_load(text)
        )
    except (yaml.YAMLError, ValueError):
        return text


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return str(unknown("configuration field", name, SweepConfig.model_fields))
    why = problem["msg"][0].lower() + problem["msg"][1:]
    return f"'{name}' is {problem['input']!r:.80}: {why}."
