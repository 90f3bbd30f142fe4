"""The fields of a suite's YAML file, and what is told about wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from orchestrator.tasks.suites import SUITES
from orchestrator.tasks.vtab import VTAB

FORMS = ("folders", "lists", "parquet")
"""How a task says where its images are: it has one of these fields."""


def _safe(name: str) -> str:
    """A name that can be a folder's, and that no option takes for something else."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ValueError("a name has letters, digits, '_', '-' and '.', and starts with no '.'")
    if name in ("all", *SUITES):
        raise ValueError(f"this name is taken: {', '.join(('all', *SUITES))}")
    return name


def _place(value: Any) -> Any:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path")
    return value


def _place_or_share(value: Any) -> Any:
    if isinstance(value, float) and 0 < value < 1:
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path, or a number above 0 and below 1: the share of train")
    return value


def _classes(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 1_000_000:
        return value
    names = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    if not names or len(value) < 2 or len(set(value)) < len(value):
        raise ValueError("expected a number from 2 on, or a list of two or more different names")
    return tuple(value)


Name = Annotated[str, AfterValidator(_safe)]
Place = Annotated[str, BeforeValidator(_place)]
PlaceOrShare = Annotated[str | float, BeforeValidator(_place_or_share)]
Count = Annotated[int | None, Field(ge=1, strict=True)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Folders(_Fields):
    train: Place
    val: PlaceOrShare
    test: Place


class _Lists(_Folders):
    root: Place


class _Parquet(_Folders):
    image: str = "image"
    label: str = "label"


class TaskForm(_Fields):
    """One task of a suite."""

    classes: Annotated[int | tuple[str, ...], BeforeValidator(_classes)]
    group: str = Field("all", min_length=1)
    aliases: tuple[Name, ...] = ()
    train: Count = None
    val: Count = None
    test: Count = None
    folders: _Folders | None = None
    lists: _Lists | None = None
    parquet: _Parquet | None = None

    @model_validator(mode="after")
    def _one_form(self) -> TaskForm:
        given = [form for form in FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            has = f"has {' and '.join(given)}" if given else "says nowhere where its images are"
            raise ValueError(f"the task {has}; give one of {', '.join(FORMS)}")
        return self


class SuiteForm(_Fields):
    """A whole file; the defaults are those of `vtab`."""

    name: Name
    tasks: dict[Name, TaskForm] = Field(min_length=1)
    backbone: str = Field(VTAB.backbone, min_length=1)
    recipe: dict[str, Any] = Field(default_factory=dict)
    default_tasks: tuple[str, ...] | None = Field(None, min_length=1)
    default_adapters: tuple[str, ...] = Field(VTAB.default_adapters, min_length=1)
    sampler: str = VTAB.sampler
    stopping: str = VTAB.stopping
    trials: int | None = Field(VTAB.trials, ge=1, strict=True)
    seeds: int = Field(VTAB.seeds, ge=1, strict=True)
    replicate: int = Field(VTAB.replicate, ge=1, strict=True)
    spaces: dict[str, dict[str, Any]] = Field(default_factory=dict)
    side: int = Field(VTAB.side, ge=16, le=4096, strict=True)
    view: Literal["centre", "whole"] = "whole"


def checked(values: Mapping[str, Any]) -> SuiteForm | list[str]:
    """The fields of a file, or everything that is wrong with them: a sentence each."""
    try:
        return SuiteForm.model_validate(values)
    except ValidationError as error:
        return [_sentence(problem) for problem in error.errors()]


def _sentence(problem: Any) -> str:
    """One of pydantic's errors for people."""
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        return f"'{where}' is no field here; allowed: {', '.join(_allowed(problem['loc']))}."
    if problem["type"] == "missing":
        return f"'{where}' is missing."
    why = problem["msg"].removeprefix("Value error, ")
    return f"'{where}' is {problem['input']!r:.80}: {why[:1].lower()}{why[1:]}."


def _allowed(location: tuple[int | str, ...]) -> Iterator[str]:
    """The fields beside an unknown one."""
    model: type[BaseModel] = SuiteForm
    if len(location) > 2 and location[0] == "tasks":
        forms: dict[str, type[BaseModel]]
        forms = {"folders": _Folders, "lists": _Lists, "parquet": _Parquet}
        model = forms[str(location[2])] if len(location) > 3 else TaskForm
    return iter(model.model_fields)
