"""A person's own suite, from one YAML file.

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.spec import Recipe, Suite, Task
from orchestrator.storage.yaml import read_yaml
from orchestrator.tasks.form import FORMS, SuiteForm, TaskForm, checked

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_PLACES = ("root", "train", "val", "test")


def read_suite(path: Path) -> Suite:
    """The suite that a YAML file describes; `InvalidInput` names every wrong field of the file."""
    file = checked(read_yaml(path, "suite"))
    if isinstance(file, list):
        raise _wrong(path, file)
    problems = [*_name_problems(file), *_recipe_problems(_recipe_values(file))]
    if problems:
        raise _wrong(path, problems)
    folder = Path(os.path.abspath(path)).parent
    return Suite(
        name=file.name,
        tasks=tuple(_task(name, task) for name, task in file.tasks.items()),
        backbone=file.backbone,
        recipe=Recipe(precision="auto").with_values(_recipe_values(file)),
        default_tasks=_default_tasks(file),
        default_adapters=file.default_adapters,
        seeds=file.seeds,
        sampler=file.sampler,
        stopping=file.stopping,
        trials=file.trials,
        replicate=file.replicate,
        spaces=file.spaces,
        layout="files",
        side=file.side,
        view=file.view,
        files={name: _files(task, folder) for name, task in file.tasks.items()},
    )


def _task(name: str, task: TaskForm) -> Task:
    classes = task.classes if isinstance(task.classes, int) else len(task.classes)
    return Task(name, task.group, classes, task.train, task.val, task.test, task.aliases)


def _files(task: TaskForm, folder: Path) -> Mapping[str, Any]:
    """Where the task's images are, with absolute paths; JSON values only."""
    files: dict[str, Any] = {"inside": str(folder)}
    if not isinstance(task.classes, int):
        files["classes"] = list(task.classes)
    for form in FORMS:
        if (places := getattr(task, form)) is not None:
            files[form] = {
                name: _absolute(folder, value) if name in _PLACES else value
                for name, value in places.model_dump().items()
            }
    return files


def _absolute(folder: Path, value: str | float) -> str | float:
    if isinstance(value, float):
        return value
    return os.path.normpath(folder / os.path.expanduser(value))


def _default_tasks(file: SuiteForm) -> tuple[str, ...]:
    """The names of the default tasks, in the file's order; all tasks if it names none."""
    wanted = set(file.default_tasks or file.tasks)
    return tuple(name for name, task in file.tasks.items() if wanted & {name, *task.aliases})


def _name_problems(file: SuiteForm) -> Iterator[str]:
    """Names that stand for two tasks, and default tasks that are none."""
    owners: dict[str, str] = {}
    for name, task in file.tasks.items():
        for other in (name, *task.aliases):
            owner = owners.setdefault(other.casefold(), name)
            if owner != name:
                yield f"'tasks.{name}': the name '{other}' is task '{owner}' as well."
    known = {*file.tasks, *(other for task in file.tasks.values() for other in task.aliases)}
    for name in file.default_tasks or ():
        if name not in known:
            yield f"'default_tasks' has '{name}'; allowed: {', '.join(file.tasks)}."


def _recipe_problems(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Each field is tried alone; what only their combination breaks is named if each is right."""
    lenient = Recipe(epochs=10**9, warmup_epochs=0)
    alone = [_recipe_problem(lenient, {name: value}) for name, value in recipe.items()]
    found = [problem for problem in alone if problem] or [_recipe_problem(Recipe(), recipe)]
    yield from (f"'recipe': {problem}" for problem in found if problem)


def _recipe_problem(base: Recipe, values: Mapping[str, Any]) -> str:
    try:
        base.with_values(values)
    except InvalidInput as error:
        return str(error)
    return ""


def _recipe_values(file: SuiteForm) -> dict[str, Any]:
    """The file's recipe fields, as numbers where YAML 1.1 reads text: 1e-3, without a point.

    Where only the epochs are given, warm-up keeps its tenth of them.
    """
    values = {
        name: float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
        for name, value in file.recipe.items()
    }
    epochs = values.get("epochs")
    if isinstance(epochs, int) and epochs >= 1 and "warmup_epochs" not in values:
        values["warmup_epochs"] = round(epochs / 10)
    return values


def _wrong(path: Path, problems: list[str]) -> InvalidInput:
    listed = "\n  ".join(problems)
    return InvalidInput(f"the suite file '{path}' is wrong:\n  {listed}")
