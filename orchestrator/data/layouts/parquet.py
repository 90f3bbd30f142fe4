"""Images in the rows of Parquet files, as on the Hugging Face hub.

The image column holds bytes, or the hub's struct {bytes, path}; the label column numbers, texts or
truth values.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.layouts.labels import Value, number_labels
from orchestrator.data.layouts.lists import hold_out
from orchestrator.data.layouts.shards import check_overlap, shards
from orchestrator.data.layouts.tree import ListEntry
from orchestrator.data.listing import SPLITS, Item, Listing, stamp_of
from orchestrator.spec import Task
from orchestrator.storage.files import open_regular, reason

_BATCH, _KEPT = 64, 4
"""Rows that are read at once, and such batches in memory: threads read nearly in order. A whole row
group may have more bytes than an Arrow array can hold (2 GiB)."""


class ImageColumn:
    """The image column of a split's Parquet files, read in batches; threads may share it."""

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        self.paths, self._column = paths, column
        self._groups: list[tuple[Path, int, int]] = []
        """File, row group in it, and its first row in the file."""
        counts = []
        for path in paths:
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            starts = accumulate(sizes[:-1], initial=0) if sizes else ()
            self._groups += [(path, number, start) for number, start in enumerate(starts)]
            counts += sizes
        self._ends = list(accumulate(counts))
        self._bytes = sum(path.stat().st_size for path in paths)
        self._batches: dict[int, Any] = {}
        """By their first row, of all files together."""
        self._reader: Iterator[tuple[int, Any]] = iter(())
        self._at = (-1, 0)
        """The row group that the reader is in, and the row it has come to."""
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Their number, of all files."""
        return self._ends[-1] if self._ends else 0

    @property
    def row_bytes(self) -> int:
        """About how many bytes a row has."""
        return self._bytes // max(1, self.rows)

    def locate(self, row: int) -> tuple[Path, int]:
        """The file that has a row of all files, and the row's number there."""
        group = bisect_right(self._ends, row)
        path, _, start = self._groups[group]
        return path, start + row - (self._ends[group - 1] if group else 0)

    def image(self, row: int) -> bytes:
        """The encoded image of a row; `OSError` if it has none or the file cannot be read."""
        with self._lock:
            first = next((at for at, b in self._batches.items() if 0 <= row - at < len(b)), None)
            first = self._read_to(row) if first is None else first
            value = self._batches[first][row - first].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the row holds no image bytes")
        return data

    def _read_to(self, row: int) -> int:
        """Read on until there is a batch with the row, from the start of its row group if the
        reader has passed it; the batch's first row.
        """
        group = bisect_right(self._ends, row)
        if self._at[0] != group or self._at[1] > row:
            self._reader = self._read_group(group)
        try:
            for first, batch in self._reader:
                self._at = (group, first + len(batch))
                self._batches[first] = batch
                if len(self._batches) > _KEPT:
                    del self._batches[next(iter(self._batches))]
                if row < self._at[1]:
                    return first
        except (pa.ArrowException, ValueError) as error:
            self._at = (-1, 0)
            raise OSError(f"the Parquet file is damaged: {error}") from error
        raise OSError("the Parquet file is damaged: it has fewer rows than it says")

    def _read_group(self, group: int) -> Iterator[tuple[int, Any]]:
        path, number, _ = self._groups[group]
        row = self._ends[group - 1] if group else 0
        with pq.ParquetFile(path, buffer_size=2**20) as file:
            for batch in file.iter_batches(_BATCH, [number], [self._column]):
                yield row, batch.column(0)
                row += len(batch)


@dataclass(frozen=True)
class RowItem:
    """An image in a row of a split's Parquet files; rows count from 0."""

    table: ImageColumn
    row: int
    label: int

    @property
    def where(self) -> str:
        path, row = self.table.locate(self.row)
        return f"{path}, row {row}"

    @property
    def identity(self) -> str:
        return self.where

    def read(self) -> bytes:
        return self.table.image(self.row)

    def size(self) -> int:
        return self.table.row_bytes

    def stamp(self) -> str:
        return stamp_of(self.table.locate(self.row)[0])


def read(
    inside: Path, task: Task, files: Mapping[str, Any], names: tuple[str, ...], problems: list[str]
) -> Listing:
    """`{train: FILES, val: FILES, test: FILES, image: COLUMN, label: COLUMN}`."""
    paths = {
        split: list(shards(files[split], split, problems))
        for split in SPLITS
        if not isinstance(files[split], float)
    }
    check_overlap(paths, problems)
    tables: dict[str, ImageColumn] = {}
    values: dict[str, list[Value]] = {}
    for split, own in paths.items():
        before = len(problems)
        rows = [_labels(path, files["image"], files["label"], problems) for path in own]
        if own and len(problems) == before:
            tables[split] = ImageColumn(own, files["image"])
            values[split] = [value for part in rows for value in part]
    labels, classes = number_labels(values, task, names, problems)
    entries: dict[str, list[ListEntry]] = {split: [] for split in SPLITS}
    for split, part in labels.items():
        entries[split] = [ListEntry("", str(row), label) for row, label in enumerate(part)]
    if "val" not in paths:
        entries["train"], entries["val"] = hold_out(entries["train"], files["val"])
        tables |= {"val": tables["train"]} if "train" in tables else {}
    items: dict[str, Sequence[Item]] = {
        split: [RowItem(tables[split], int(entry.path), entry.label) for entry in part]
        for split, part in entries.items()
    }
    return Listing(items, tuple(problems), classes)


def _labels(path: Path, image: str, label: str, problems: list[str]) -> list[Value]:
    """The label column; none, with a problem, if the file or its columns cannot be used."""
    try:
        open_regular(path).close()  # pyarrow would wait at a pipe
        with pq.ParquetFile(path) as file:
            before = len(problems)
            problems.extend(_column_problems(path, file.schema_arrow, image, label))
            if len(problems) > before:
                return []
            values = file.read(columns=[label]).column(0).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: no UTF-8
        what = (
            "is missing"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read ({reason(error)})"
        )
        problems.append(f"{path}: this Parquet file {what}.")
        return []
    if not values:
        problems.append(f"{path}: it has no rows.")
    return [Value(f"{path}, row {row}", _decoded(value)) for row, value in enumerate(values)]


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _column_problems(path: Path, schema: Any, image: str, label: str) -> list[str]:
    for name in (image, label):
        if (count := schema.names.count(name)) > 1:
            return [
                f"{path}: {count} columns are called '{name}'; write the file with one of them."
            ]
    problems = [
        f"{path}: there is no column '{name}'; it has {schema.names}."
        for name in (image, label)
        if name not in schema.names
    ]
    if not problems and not _holds_images(schema.field(image).type):
        problems.append(
            f"{path}: column '{image}' is {schema.field(image).type}; allowed: bytes, or a struct "
            "{bytes, path}."
        )
    if not problems and not _holds_labels(schema.field(label).type):
        problems.append(
            f"{path}: column '{label}' is {schema.field(label).type}; allowed: numbers, texts and "
            "truth values."
        )
    return problems


def _holds_images(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return _is_bytes(kind)


def _holds_labels(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    types = pa.types
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(number or text or types.is_boolean(kind) or _is_bytes(kind))


def _is_bytes(kind: Any) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )  # fmt: skip
