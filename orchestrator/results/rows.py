"""A TrialResult as one row of a Parquet table, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.results import plausible
from orchestrator.spec import Point, Trial, TrialResult, canonical

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
POINT = pa.struct(
    [
        ("epoch", _WHOLE),
        ("lr", _REAL),
        ("loss", _REAL),
        ("eval_loss", _REAL),
        ("eval_accuracy", _REAL),
    ]
)
SCHEMA = pa.schema(
    [
        *((name, _TEXT) for name in ("key", "suite", "task", "backbone", "adapter")),
        *((name, _TEXT) for name in ("stage", "status", "config", "params", "recipe")),
        *((name, _TEXT) for name in ("protocol", "data", "weights", "stopping", "message")),
        *((name, _TEXT) for name in ("host", "device", "code", "versions")),
        *((name, _WHOLE) for name in ("seed", "epochs_run", "parameters", "test_reads")),
        *((name, _REAL) for name in ("value", "eval_loss", "seconds", "started", "finished")),
        ("correct", pa.binary()),
        ("curve", pa.list_(POINT)),
        ("files", _TEXT),
    ]
)
"""Flat columns; `params`, `recipe`, `versions` and `files` are JSON. A last column, `seal`, is the
SHA-256 of the others: a row that was damaged or edited by hand does not match it."""

_LATER = ("files",)
"""Columns that rows of earlier versions lack; an empty one is not part of the seal."""
FIELDS = SCHEMA.append(pa.field("seal", _TEXT))
ALL = tuple(FIELDS.names)
MANY = 10_000
"""Rows from which a file is read with several threads."""
_TRIAL_COLUMNS = (
    *("suite", "task", "backbone", "adapter", "seed", "stage", "data", "weights", "protocol"),
)
_RESULT_COLUMNS = (
    *("status", "value", "eval_loss", "epochs_run", "correct", "parameters", "stopping"),
    *("message", "test_reads", "seconds", "started", "finished", "host", "device", "code"),
)


def encode(results: Sequence[TrialResult]) -> bytes:
    """The bytes of a Parquet file with one row per result, in the order given."""
    table = pa.Table.from_pylist([_row(result) for result in results], schema=SCHEMA)
    # Seal what Arrow stored, not what it was given: it turns an int into the column's float.
    seals = pa.array([_seal(row) for row in table.to_pylist()], _TEXT)
    table = table.append_column("seal", seals)
    sink = pa.BufferOutputStream()
    many = table.num_rows > 1  # for one row, dictionaries and statistics cost more than the row
    pq.write_table(table, sink, compression="zstd", use_dictionary=many, write_statistics=many)
    return bytes(sink.getvalue())


def decode(data: bytes, names: Collection[str] = ALL) -> list[dict[str, Any]]:
    """The named columns of a Parquet file's rows, as plain values; seals are not checked.

    `ValueError` when the file is not a ledger's.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        stored = [n for n in names if n not in _LATER or n in file.schema_arrow.names]
        # Threads cost more than they save where there are few rows.
        table = file.read(columns=stored, use_threads=file.metadata.num_rows > MANY)
        for name in set(names) - set(stored):
            table = table.append_column(name, pa.array([""] * table.num_rows, _TEXT))
        schema = pa.schema([FIELDS.field(name) for name in names])
        rows: list[dict[str, Any]] = table.select(list(names)).cast(schema).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return rows


def result(row: dict[str, Any]) -> TrialResult:
    """The result that a row records; `ValueError` when the row contradicts itself or says what no
    trial can end with.
    """
    if row.get("seal") != _seal(row):
        raise ValueError("its seal does not match its content: damaged or edited by hand")
    trial = Trial.from_dict(
        {name: row[name] for name in _TRIAL_COLUMNS}
        | {"params": json.loads(row["params"]), "recipe": json.loads(row["recipe"])}
    )
    if trial.key != row["key"]:
        raise ValueError(f"its content has the key {trial.key}: damaged or edited by hand")
    found = TrialResult(
        trial=trial,
        curve=tuple(Point(**point) for point in row["curve"]),
        versions=json.loads(row["versions"]),
        files=json.loads(row["files"] or "{}"),
        **{name: row[name] for name in _RESULT_COLUMNS},
    )
    if impossible := plausible.problems(found):
        raise ValueError("; ".join(impossible))
    return found


def _row(result: TrialResult) -> dict[str, Any]:
    trial = result.trial
    return {
        **{name: getattr(trial, name) for name in _TRIAL_COLUMNS},
        **{name: getattr(result, name) for name in _RESULT_COLUMNS},
        "key": trial.key,
        "config": trial.config,
        "params": canonical(dict(trial.params)),
        "recipe": canonical(asdict(trial.recipe)),
        "versions": canonical(dict(result.versions)),
        "curve": [vars(point) for point in result.curve],
        "files": canonical(dict(result.files)) if result.files else "",
    }


def _seal(row: dict[str, Any]) -> str:
    absent = [name for name in _LATER if not row[name]]
    content = {name: value for name, value in row.items() if name not in ("seal", *absent)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=bytes.hex)
    return hashlib.sha256(text.encode()).hexdigest()
