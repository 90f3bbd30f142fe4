"""A user's own suite, from one YAML file.

    name: garden
    tasks:
      tulips:
        classes: [parrot, triumph, viridiflora]     # or their number
        folders: {train: tulips/train, val: 0.2, test: tulips/test}
      weeds:
        classes: 12
        group: hard
        lists: {root: weeds, train: weeds/train.txt, val: weeds/val.txt, test: weeds/test.txt}
      ferns:
        classes: 4
        parquet: {train: ferns/train.parquet, val: 0.1, test: ferns/test.parquet}
    recipe: {epochs: 50, batch: 32}

Paths are relative to the file's folder. A number as `val` is the share of train that is held out.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
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

from orchestrator.errors import InvalidInput
from orchestrator.spec import MOST_STEPS, Recipe, Suite, Task
from orchestrator.storage.yaml import read_yaml
from orchestrator.tasks.suites import SUITES, VTAB

_PATHS = ("root", "train", "val", "test")


def _check_name(name: str) -> str:
    """A name that can be a folder's and that no option takes for something else."""
    name = _plain(name)
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ValueError("a name has letters, digits, '_', '-' and '.', and starts with no '.'")
    if name in ("all", *SUITES):
        raise ValueError(f"this name is taken: {', '.join(('all', *SUITES))}")
    return name


def _check_path(value: Any, expected: str = "a path") -> Any:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"expected {expected}")
    return value


def _check_path_or_share(value: Any) -> Any:
    if isinstance(value, float) and 0 < value < 1:
        return value
    return _check_path(value, "a path, or a number above 0 and below 1: the share of train")


def _check_classes(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 1_000_000:
        return value
    names = isinstance(value, list) and all(isinstance(name, str) and name for name in value)
    classes = tuple(map(_plain, value)) if names else ()
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError("expected a number from 2 on, or a list of two or more different names")
    return classes


def _plain(name: str) -> str:
    """A name in Unicode's composed form; files from other systems have the other one."""
    return unicodedata.normalize("NFC", name)


def _check_shards(value: Any) -> Any:
    expected = "a path, a pattern, or a list of them"
    if isinstance(value, list) and value:
        return tuple(_check_path(path, expected) for path in value)
    return _check_path(value, expected)


def _check_shards_or_share(value: Any) -> Any:
    return _check_shards(value) if isinstance(value, list) else _check_path_or_share(value)


Name = Annotated[str, AfterValidator(_check_name)]
PathText = Annotated[str, BeforeValidator(_check_path)]
PathOrShare = Annotated[str | float, BeforeValidator(_check_path_or_share)]
Shards = Annotated[str | tuple[str, ...], BeforeValidator(_check_shards)]
ShardsOrShare = Annotated[str | tuple[str, ...] | float, BeforeValidator(_check_shards_or_share)]
Count = Annotated[int | None, Field(ge=1, strict=True)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Folders(_Fields):
    train: PathText
    val: PathOrShare
    test: PathText


class _Lists(_Folders):
    root: PathText


class _Parquet(_Fields):
    train: Shards
    val: ShardsOrShare
    test: Shards
    image: str = "image"
    label: str = "label"


FORMS: Mapping[str, type[BaseModel]] = {
    "folders": _Folders, "lists": _Lists, "parquet": _Parquet
}  # fmt: skip
"""The fields that state where a task's images are; a task has exactly one of them."""


class TaskFields(_Fields):
    """One task of a suite."""

    classes: Annotated[int | tuple[str, ...], BeforeValidator(_check_classes)]
    group: str = Field("all", min_length=1)
    aliases: tuple[Name, ...] = ()
    train: Count = None
    val: Count = None
    test: Count = None
    folders: _Folders | None = None
    lists: _Lists | None = None
    parquet: _Parquet | None = None

    @model_validator(mode="after")
    def _one_form(self) -> TaskFields:
        given = [form for form in FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            has = f"has {' and '.join(given)}" if given else "does not say where its images are"
            raise ValueError(f"the task {has}; give one of {', '.join(FORMS)}")
        return self


class SuiteFields(_Fields):
    """A whole file; the defaults are those of `vtab`."""

    name: Name
    tasks: dict[Name, TaskFields] = Field(min_length=1)
    backbone: str = Field(VTAB.backbone, min_length=1)
    recipe: dict[str, Any] = Field(default_factory=dict)
    default_tasks: tuple[str, ...] | None = Field(None, min_length=1)
    default_adapters: tuple[str, ...] = Field(VTAB.default_adapters, min_length=1)
    sampler: str = VTAB.sampler
    stopping: str = VTAB.stopping
    trials: int | None = Field(VTAB.trials, ge=1, le=1_000_000, strict=True)
    seeds: int = Field(VTAB.seeds, ge=1, le=1_000, strict=True)
    replicate: int = Field(VTAB.replicate, ge=1, le=1_000_000, strict=True)
    spaces: dict[str, dict[str, Any]] = Field(default_factory=dict)
    side: int = Field(VTAB.side, ge=16, le=4096, strict=True)
    view: Literal["centre", "whole"] = "whole"


def read_suite(path: Path) -> Suite:
    """The suite that a YAML file describes; `InvalidInput` names every wrong field of the file."""
    try:
        file = SuiteFields.model_validate(read_yaml(path, "suite"))
    except ValidationError as error:
        raise _invalid(path, [_sentence(problem) for problem in error.errors()]) from error
    problems = [*_name_problems(file), *_recipe_problems(_recipe_values(file))]
    if problems:
        raise _invalid(path, problems)
    folder = Path(os.path.abspath(path)).parent
    return Suite(
        **file.model_dump(exclude={"tasks", "recipe", "default_tasks"}),
        tasks=tuple(_task(name, task) for name, task in file.tasks.items()),
        recipe=Recipe(precision="auto").with_values(_recipe_values(file)),
        default_tasks=_default_tasks(file),
        layout="files",
        files={name: _files(task, folder) for name, task in file.tasks.items()},
    )


def _task(name: str, task: TaskFields) -> Task:
    classes = task.classes if isinstance(task.classes, int) else len(task.classes)
    return Task(name, task.group, classes, task.train, task.val, task.test, task.aliases)


def _files(task: TaskFields, folder: Path) -> Mapping[str, Any]:
    """`Suite.files` of a task: absolute paths; JSON values only."""
    files: dict[str, Any] = {"inside": str(folder)}
    if not isinstance(task.classes, int):
        files["classes"] = list(task.classes)
    for form in FORMS:
        if (given := getattr(task, form)) is not None:
            files[form] = {
                name: _absolute(folder, value) if name in _PATHS else value
                for name, value in given.model_dump().items()
            }
    return files


def _absolute(folder: Path, value: str | float | tuple[str, ...]) -> Any:
    if isinstance(value, float):
        return value
    if isinstance(value, tuple):
        return [_absolute(folder, path) for path in value]
    return os.path.normpath(folder / os.path.expanduser(value))


def _default_tasks(file: SuiteFields) -> tuple[str, ...]:
    """The names of the default tasks, in the file's order; all tasks if it names none."""
    wanted = set(map(_plain, file.default_tasks or file.tasks))
    return tuple(name for name, task in file.tasks.items() if wanted & {name, *task.aliases})


def _name_problems(file: SuiteFields) -> Iterator[str]:
    """Names that two tasks share, and default tasks that do not exist."""
    owners: dict[str, str] = {}
    for name, task in file.tasks.items():
        for other in (name, *task.aliases):
            owner = owners.setdefault(other.casefold(), name)
            if owner != name:
                yield f"'tasks.{name}': the name '{other}' is task '{owner}' as well."
    known = {*file.tasks, *(other for task in file.tasks.values() for other in task.aliases)}
    for name in file.default_tasks or ():
        if _plain(name) not in known:
            yield f"'default_tasks' has '{name}'; allowed: {', '.join(file.tasks)}."


def _recipe_problems(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Every wrong field; the combination is checked only if each field alone is right."""
    lenient = Recipe(epochs=MOST_STEPS, warmup_epochs=0)
    alone = [_recipe_problem(lenient, {name: value}) for name, value in recipe.items()]
    yield from filter(None, alone if any(alone) else [_recipe_problem(Recipe(), recipe)])


def _recipe_problem(base: Recipe, values: Mapping[str, Any]) -> str:
    try:
        base.with_values(values)
    except InvalidInput as error:
        return f"'recipe': {error}"
    return ""


def _recipe_values(file: SuiteFields) -> dict[str, Any]:
    """The file's recipe fields. Where only the epochs are given, warm-up is a tenth of them."""
    values = dict(file.recipe)
    epochs = values.get("epochs")
    if isinstance(epochs, int) and epochs >= 1 and "warmup_epochs" not in values:
        values["warmup_epochs"] = round(epochs / 10)
    return values


def _sentence(problem: Any) -> str:
    """One of pydantic's errors as a sentence."""
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        return f"'{where}' is no field here; allowed: {', '.join(_allowed(problem['loc']))}."
    if problem["type"] == "missing":
        return f"'{where}' is missing."
    why = problem["msg"].removeprefix("Value error, ")
    return f"'{where}' is {problem['input']!r:.80}: {why[:1].lower()}{why[1:]}."


def _allowed(location: tuple[int | str, ...]) -> Iterator[str]:
    """The fields beside an unknown one."""
    model: type[BaseModel] = SuiteFields
    if len(location) > 2 and location[0] == "tasks":
        model = FORMS[str(location[2])] if len(location) > 3 else TaskFields
    return iter(model.model_fields)


def _invalid(path: Path, problems: list[str]) -> InvalidInput:
    listed = "\n  ".join(problems)
    return InvalidInput(f"the suite file '{path}' is wrong:\n  {listed}")
