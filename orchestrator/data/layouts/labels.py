"""Labels as tables hold them (numbers, texts, truth values) to classes counted from 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.data.layouts.lists import UNKNOWN
from orchestrator.data.layouts.tree import normal_form
from orchestrator.spec import Task

_YES, _NO = ("true", "yes", "1", "y", "on"), ("false", "no", "0", "n", "off")


class Value(NamedTuple):
    """A label with the row that it stands in; None where the row has none."""

    where: str
    value: Any


def number_labels(
    splits: Mapping[str, Sequence[Value]], task: Task, names: tuple[str, ...], problems: list[str]
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """The labels of each split as integers, and the classes' names; a problem for each wrong one.

    Where the suite names the classes and every label is such a name, that decides. Else numbers
    count from 0, and different texts are the classes, sorted, if there are as many as the task has.
    """
    given = [value for part in splits.values() for value in part]
    known, names = _known(given, task, names, problems)
    numbered = {
        split: [_number(value, known, task, names, problems) for value in part]
        for split, part in splits.items()
    }
    return numbered, names


def sorted_ids(names: Iterable[str | None]) -> tuple[str, ...]:
    """The distinct ids: as numbers if all are, else as text."""
    ids = {name for name in names if name is not None}
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in ids):
        return tuple(sorted(ids, key=lambda name: (int(name), name)))
    return tuple(sorted(ids))


def _known(
    given: Sequence[Value], task: Task, names: tuple[str, ...], problems: list[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The labels by their text where texts decide, and the classes' names."""
    texts = {_text(value.value) for value in given if value.value is not None}
    by_name = {name: label for label, name in enumerate(names)}
    if texts and texts <= set(by_name):
        return by_name, names
    truth = {name.casefold(): label for name, label in by_name.items()}
    if len(names) == 2 and all(isinstance(value.value, bool) for value in given):
        no, yes = (next((truth[w] for w in words if w in truth), None) for words in (_NO, _YES))
        if no is not None and yes is not None:
            return {_text(False): no, _text(True): yes}, names
    if not any(isinstance(value.value, str) for value in given):
        return {}, names  # numbers
    numbers = map(_whole, texts)
    if all(number is not None and number < task.classes for number in numbers):
        return {}, names
    if names:
        return by_name, names
    if any(isinstance(value.value, int | float) for value in given):
        return {}, names  # the texts among numbers are wrong
    ids = sorted_ids(texts)
    if len(ids) != task.classes:
        problems.append(
            f"{given[0].where}: the labels are {len(ids)} different texts ({', '.join(ids):.200}); "
            f"the suite says {task.classes} classes. Name them all: `classes: [...]`."
        )
    return {text: label for label, text in enumerate(ids)}, ids


def _number(
    label: Value,
    known: Mapping[str, int],
    task: Task,
    names: Sequence[str],
    problems: list[str],
) -> int:
    where, value = label
    if value is not None and _text(value) in known:
        return known[_text(value)]
    number = _whole(value)
    if known or number is None or not 0 <= number < task.classes:
        what = "none" if value is None else f"{_text(value):.60}"
        allowed = f"{', '.join(names):.200}" if known else f"0…{task.classes - 1}"
        problems.append(f"{where}: the label is {what}; allowed: {allowed}.")
        return UNKNOWN if number is None else number
    return number


def _whole(value: Any) -> int | None:
    """The integer that a number or a text of digits is; None for all else, such as 0.5."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    try:
        return int(value) if int(value) == value else None
    except (TypeError, ValueError, OverflowError):  # a date, NaN, infinity
        return None


def _text(value: Any) -> str:
    """A label's text; 1.0 and 1 have the same."""
    if isinstance(value, bool | str) or (number := _whole(value)) is None:
        return normal_form(str(value))
    return str(number)
