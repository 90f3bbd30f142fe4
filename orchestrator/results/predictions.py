"""The logits that a replicate or final trial gave on its evaluation split, kept in a file.

`predictions/<key>.safetensors` has `logits` (N, classes) fp16, each image's minus its largest, and
`labels` (N,) int32, in the order of the split. The ledger's row has the file's SHA-256 in `files`,
under `FILE`, and the file is written before the row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from orchestrator.spec import TrialResult
from orchestrator.storage.files import make_folder, read_file, reason, write_whole
from orchestrator.storage.sweep_paths import SweepPaths

FILE = "logits"
"""The name in `TrialResult.files`."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities (N, classes) and labels (N,) of N images."""

    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]


def save(logits: NDArray[Any], labels: NDArray[Any], path: Path) -> str:
    """Write a trial's file, whole or not at all; its SHA-256 (hex)."""
    content = to_bytes({"logits": logits.astype(np.float16), "labels": labels.astype(np.int32)})
    make_folder(path.parent)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def load(paths: SweepPaths, row: TrialResult) -> Predictions | None:
    """The predictions of a ledger's row; None where it has none (rows of earlier versions).

    `ValueError` says what is wrong with the file, `FileNotFoundError` that it is not here.
    """
    wanted, path = row.files.get(FILE), paths.predictions_of(row.key)
    if wanted is None:
        return None
    try:
        content = read_file(path, None)
        if hashlib.sha256(content).hexdigest() != wanted:
            raise ValueError("it is not what was recorded (its SHA-256 differs)")
        found = from_bytes(content)
        logits, labels = found["logits"].astype(np.float64), found["labels"].astype(np.int64)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"'{paths.shown(path)}' cannot be used: {reason(error)}") from error
    raised = np.exp(logits)
    return Predictions(raised / raised.sum(1, keepdims=True), labels)


def are_here(paths: SweepPaths, rows: Iterable[TrialResult]) -> bool:
    """Whether every file that the rows name is on this machine."""
    return all(paths.predictions_of(row.key).exists() for row in rows if FILE in row.files)


def reader(
    paths: SweepPaths, download: Callable[[Path], None], left_out: Callable[[str], None]
) -> Callable[[TrialResult], Predictions | None]:
    """`load` for an analysis: a missing file is downloaded, what cannot be used is told, once."""
    told: set[str] = set()

    def read(row: TrialResult) -> Predictions | None:
        try:
            if FILE in row.files and not paths.predictions_of(row.key).exists():
                download(paths.predictions_of(row.key))
            return load(paths, row)
        except FileNotFoundError:
            why = (
                f"'{paths.shown(paths.predictions)}' lacks files that the ledger names: no seed "
                "ensembles of their trials (`orchestrate fetch --all` brings them)"
            )
        except ValueError as error:
            why = str(error)
        if why not in told:
            told.add(why)
            left_out(why)
        return None

    return read
