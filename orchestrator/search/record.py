"""Recorded trials of whole spaces, which a replay draws from in place of devices.

A table (Parquet or CSV) has one row per trial: `task`, `adapter`, `seed`, `val` (accuracy after
every epoch: a list, in CSV numbers with spaces between them), `test` (accuracy after the last
epoch; may be empty), `parameters` (may be missing), and one column per searched field, empty for
adapters that do not have it. Every combination of a study's values must be there, once with every
seed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from optuna.distributions import CategoricalDistribution

from orchestrator.errors import InvalidInput
from orchestrator.results.ledger import Ledger
from orchestrator.results.sweep_file import read_sweep
from orchestrator.search.configurations import fields_of
from orchestrator.spec import TrialResult
from orchestrator.storage.files import reason
from orchestrator.storage.sweep_paths import SweepPaths
from search_spaces import to_choice

OWN = ("task", "adapter", "seed", "val", "test", "parameters")
"""The columns that are no fields."""
_MOST_SHOWN = 5
Point = tuple[Any, ...]
"""One value per field, in the order of the fields."""


@dataclass(frozen=True)
class RecordedTrial:
    """A recorded trial: val accuracies by epoch, and test accuracy after the last if measured."""

    val: tuple[float, ...]
    test: float | None
    parameters: int = 0


@dataclass(frozen=True)
class RecordedStudy:
    """The trials of every point of a (task, adapter) with every seed, all of `epochs` epochs."""

    task: str
    adapter: str
    space: Mapping[str, CategoricalDistribution]
    outcomes: Mapping[Point, Mapping[int, RecordedTrial]]
    seeds: tuple[int, ...]
    epochs: int

    @property
    def name(self) -> str:
        """`task/adapter`."""
        return f"{self.task}/{self.adapter}"


def read_record(path: Path) -> list[RecordedStudy]:
    """The studies of a table, or of a sweep's folder; `InvalidInput` names all that is wrong.

    Of a folder the search trials count, without test accuracies; where val was not read after an
    epoch, the last accuracy before stands (0 before any), and of a trial that diverged 0.
    """
    spaces: Mapping[str, Mapping[str, Any]] = {}
    if path.is_dir():
        spaces, rows = _of_sweep(path)
    else:
        rows = _rows(path)
    problems = list[str]()
    grouped: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["task"], row["adapter"]].append(row)
    studies = []
    for (task, adapter), own in grouped.items():
        found = _study(task, adapter, own, spaces.get(adapter, {}))
        if isinstance(found, RecordedStudy):
            studies.append(found)
        else:
            problems += found
    if problems:
        raise InvalidInput(
            f"the record '{path}' cannot be replayed:\n" + "\n".join(f"- {p}" for p in problems)
        )
    return studies


def _study(
    task: str, adapter: str, rows: Sequence[dict[str, Any]], declared: Mapping[str, Any]
) -> RecordedStudy | list[str]:
    """The study of its rows, or what is wrong with them; `declared`: field → listed values."""
    name = f"{task}/{adapter}"
    fields = [key for key in rows[0] if key not in OWN and any(r[key] is not None for r in rows)]
    if partial := [key for key in fields if any(row[key] is None for row in rows)]:
        return [f"{name}: {', '.join(partial)} has no value in some of its rows"]
    values = {key: _distinct((*declared.get(key, ()), *(r[key] for r in rows))) for key in fields}
    lengths = Counter(len(row["val"]) for row in rows)
    problems = []
    if len(lengths) > 1 or 0 in lengths:
        shown = ", ".join(f"{n} of {length}" for length, n in sorted(lengths.items()))
        problems.append(
            f"{name}: its trials have different numbers of epochs ({shown}); record trials that "
            "run to their ends (--stopping none)"
        )
    seeds = _distinct(row["seed"] for row in rows)
    counts = Counter((*(row[key] for key in fields), row["seed"]) for row in rows)
    wanted = set(product(*values.values(), seeds))
    for what, some in (
        ("more than once", [point for point, number in counts.items() if number > 1]),
        ("missing", [point for point in wanted if point not in counts]),
    ):
        if some:
            problems.append(f"{name}: {what}: {_shown(some, [*fields, 'seed'])}")
    if problems:
        return problems
    outcomes: defaultdict[Point, dict[int, RecordedTrial]] = defaultdict(dict)
    for row in rows:
        point = tuple(row[key] for key in fields)
        one = RecordedTrial(tuple(row["val"]), row["test"], row.get("parameters") or 0)
        outcomes[point][row["seed"]] = one
    space = {key: CategoricalDistribution(found) for key, found in values.items()}
    return RecordedStudy(task, adapter, space, outcomes, seeds, next(iter(lengths)))


def _of_sweep(folder: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Adapter → field → its values, where these are listed, and the rows of the search trials."""
    paths = SweepPaths(folder)
    spaces = read_sweep(paths).sweep.spaces
    listed = {
        adapter: {name: tuple(form) for name, form in own.items() if isinstance(form, list | tuple)}
        for adapter, own in spaces.items()
    }
    rows = []
    for result in Ledger(paths.ledger).results():
        trial = result.trial
        if trial.stage == "search" and not trial.leaks and trial.adapter in spaces:
            known = fields_of(trial)
            fields = {name: to_choice(name, known.get(name)) for name in spaces[trial.adapter]}
            own = (trial.task, trial.adapter, trial.seed, _every_epoch(result), None)
            rows.append({**dict(zip(OWN, (*own, result.parameters), strict=True)), **fields})
    names = dict.fromkeys(name for row in rows for name in row)
    if not rows:
        raise InvalidInput(f"the ledger of '{folder}' has no search trial.")
    return listed, [{name: row.get(name) for name in names} for row in rows]


def _every_epoch(result: TrialResult) -> list[float]:
    if result.status == "diverged":
        return [0.0] * result.trial.recipe.epochs
    known = {point.epoch: point.eval_accuracy for point in result.curve}
    found, last = [], 0.0
    for epoch in range(1, result.epochs_run + 1):
        value = known.get(epoch)
        last = last if value is None else value
        found.append(last)
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, with values of the right kinds."""
    try:
        read = pc.read_csv if path.suffix == ".csv" else pq.read_table
        table: pa.Table = read(path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(
            f"the record '{path}' cannot be read ({reason(error)}); it is a .parquet or .csv file "
            "as docs/search.md says."
        ) from error
    if lacking := [name for name in OWN[:4] if name not in table.column_names]:
        raise InvalidInput(
            f"the record '{path}' lacks the columns {', '.join(lacking)}; it has "
            f"{', '.join(table.column_names)}."
        )
    rows, wrong = [], list[str]()
    for number, row in enumerate(table.to_pylist(), 1):
        try:
            rows.append({**row, **_measured(row)})
        except (TypeError, ValueError, AttributeError):
            wrong.append(str(number))
    if wrong:
        raise InvalidInput(
            f"the record '{path}' has rows whose task, adapter, seed, val or test cannot be used "
            f"({', '.join(wrong[:_MOST_SHOWN])}{' …' if len(wrong) > _MOST_SHOWN else ''}); "
            "allowed: names, a whole number, accuracies from 0 to 1."
        )
    if not rows:
        raise InvalidInput(f"the record '{path}' has no rows.")
    return rows


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's own columns; ValueError or TypeError if one is wrong."""
    val = row["val"]
    if not isinstance(val, list):
        val = [float(part) for part in str(val).split()]
    test = row.get("test")
    shares = [*val, *([] if test is None else [test])]
    names = (row["task"], row["adapter"])
    if not all(isinstance(one, str) and one for one in names) or not isinstance(row["seed"], int):
        raise ValueError("names")
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError("accuracies")
    return {"val": val, "test": test}


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each once: numbers ascending, others in the order of their appearance."""
    found = tuple(dict.fromkeys(values))
    numbers = all(isinstance(v, int | float) for v in found)
    return tuple(sorted(found)) if numbers else found


def _shown(points: Iterable[Point], names: Sequence[str]) -> str:
    """Some points in words, and how many more there are."""
    every = sorted(points, key=str)
    texts = [
        " ".join(f"{name}={value}" for name, value in zip(names, point, strict=True))
        for point in every[:_MOST_SHOWN]
    ]
    more = f"; and {len(every) - _MOST_SHOWN} more" if len(every) > _MOST_SHOWN else ""
    return "; ".join(texts) + more
