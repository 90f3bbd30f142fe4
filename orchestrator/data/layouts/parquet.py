"""Images in the rows of Parquet files, as on the Hugging Face hub.

The image column holds bytes, or the hub's struct {bytes, path}; the label column integers.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.layouts.lists import UNKNOWN, hold_out
from orchestrator.data.layouts.tree import ListEntry
from orchestrator.data.listing import SPLITS, Item, Listing, stamp_of
from orchestrator.spec import Task

_KEPT = 2
"""Row groups in memory: threads that read in order may be on both sides of a boundary."""


class ImageColumn:
    """The image column of a Parquet file, read by row group; safe to share between threads."""

    def __init__(self, path: Path, column: str) -> None:
        self.path, self._column = path, column
        with pq.ParquetFile(path) as file:
            meta = file.metadata
            sizes = [meta.row_group(index).num_rows for index in range(meta.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._groups: dict[int, Any] = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Their number."""
        return self._ends[-1] if self._ends else 0

    def image(self, row: int) -> bytes:
        """The encoded image of a row; `OSError` if it has none or the file cannot be read."""
        group = bisect_right(self._ends, row)
        first = self._ends[group - 1] if group else 0
        with self._lock:
            column = self._group(group)
        value = column[row - first].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the row holds no image bytes")
        return data

    def _group(self, group: int) -> Any:
        if group not in self._groups:
            while len(self._groups) >= _KEPT:
                del self._groups[next(iter(self._groups))]
            try:
                with pq.ParquetFile(self.path) as file:
                    read = file.read_row_group(group, columns=[self._column])
            except pa.ArrowException as error:
                raise OSError(f"the Parquet file is damaged: {error}") from error
            self._groups[group] = read.column(0)
        return self._groups[group]


@dataclass(frozen=True)
class RowItem:
    """An image in a row of a Parquet file; rows count from 0."""

    table: ImageColumn
    row: int
    label: int

    @property
    def where(self) -> str:
        return f"{self.table.path}, row {self.row}"

    @property
    def identity(self) -> str:
        return self.where

    def read(self) -> bytes:
        return self.table.image(self.row)

    def size(self) -> int:
        return self.table.path.stat().st_size // max(1, self.table.rows)

    def stamp(self) -> str:
        return stamp_of(self.table.path)


def read(
    inside: Path, task: Task, files: Mapping[str, Any], names: tuple[str, ...], problems: list[str]
) -> Listing:
    """`{train: FILE, val: FILE, test: FILE, image: COLUMN, label: COLUMN}`."""
    tables: dict[str, ImageColumn] = {}
    entries: dict[str, list[ListEntry]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        if not isinstance(files[split], str):
            continue
        path = Path(files[split])
        labels = _labels(path, files["image"], files["label"], problems)
        if labels is not None:
            tables[split] = ImageColumn(path, files["image"])
            entries[split] = _entries(path, labels, task.classes, problems)
    if not isinstance(files["val"], str):
        entries["train"], entries["val"] = hold_out(entries["train"], files["val"])
        tables |= {"val": tables["train"]} if "train" in tables else {}
    items: dict[str, Sequence[Item]] = {
        split: [RowItem(tables[split], int(entry.path), entry.label) for entry in part]
        for split, part in entries.items()
    }
    return Listing(items, tuple(problems), names)


def _labels(path: Path, image: str, label: str, problems: list[str]) -> list[int | None] | None:
    """The label column; None, with a problem, if the file or its columns cannot be used."""
    try:
        with pq.ParquetFile(path) as file:
            before = len(problems)
            problems.extend(_column_problems(path, file.schema_arrow, image, label))
            if len(problems) > before:
                return None
            values: list[int | None] = file.read(columns=[label]).column(0).to_pylist()
    except (OSError, pa.ArrowException) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        problems.append(f"{path}: this Parquet file {what}.")
        return None
    if not values:
        problems.append(f"{path}: it has no rows.")
    return values


def _column_problems(path: Path, schema: Any, image: str, label: str) -> list[str]:
    problems = []
    for name in (image, label):
        if name not in schema.names:
            problems.append(f"{path}: there is no column '{name}'; it has {schema.names}.")
    if not problems and not _holds_images(schema.field(image).type):
        problems.append(
            f"{path}: column '{image}' is {schema.field(image).type}; allowed: bytes, or a struct "
            "{bytes, path}."
        )
    if not problems and not pa.types.is_integer(schema.field(label).type):
        problems.append(
            f"{path}: column '{label}' is {schema.field(label).type}; allowed: integers."
        )
    return problems


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _entries(
    path: Path, labels: Sequence[int | None], classes: int, problems: list[str]
) -> list[ListEntry]:
    entries = []
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < classes:
            what = "none" if label is None else str(label)
            problems.append(f"{path}, row {row}: the label is {what}; allowed: 0…{classes - 1}.")
        entries.append(ListEntry("", str(row), UNKNOWN if label is None else label))
    return entries
