"""Whether two sweeps came to the same: in everything but times, hosts and versions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from orchestrator.registry import INDEX
from orchestrator.spec import TrialResult
from orchestrator.storage.sweep_paths import SweepPaths
from tests.commands import results

TOLERANCE = 1e-5
"""Of every number and weight: a trial in company is the same to rounding, not to the last bit."""
LEFT_OUT = {
    "created", "started", "finished", "seconds",  # times
    "host", "device",  # hosts
    "code", "versions",  # versions
    "adapter_model.safetensors",  # in `sha256` and `files`: the weights themselves are compared
    "checksum",  # of the index, which has the weights' too
}  # fmt: skip
"""The fields that may differ, wherever they stand in a record; all others must not."""


def registry_differences(one: Path, other: Path) -> list[str]:
    """Where the registries of two sweep folders differ, files and weights; empty if nowhere."""
    ours, theirs = (_files(SweepPaths(out).registry) for out in (one, other))
    found = [f"only in one of them: {name}" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        found += _differences(_content(ours[name]), _content(theirs[name]), name)
    return found if INDEX in ours else [*found, f"there is no {INDEX}"]


def ledger_differences(one: Path, other: Path) -> list[str]:
    """Where the rows of two sweep folders differ; empty if nowhere."""
    return rows_differences(results(one), results(other))


def rows_differences(one: Mapping[str, TrialResult], other: Mapping[str, TrialResult]) -> list[str]:
    """Where rows by key differ; empty if nowhere."""
    ours, theirs = (_records(rows) for rows in (one, other))
    return list(_differences(ours, theirs, "ledger"))


def _records(rows: Mapping[str, TrialResult]) -> dict[str, Any]:
    return {key: {**asdict(row), "correct": row.correct.hex()} for key, row in rows.items()}


def _files(registry: Path) -> dict[str, Path]:
    return {str(p.relative_to(registry)): p for p in registry.rglob("*") if p.is_file()}


def _content(path: Path) -> Any:
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted((one.keys() | other.keys()) - LEFT_OUT):
            if name in one and name in other:
                yield from _differences(one[name], other[name], f"{where} {name}")
            else:
                yield f"{where} {name}: only in one of them"
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{where}: {len(one)} against {len(other)}"
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from _differences(*pair, f"{where} {number}")
    elif not _equal(one, other):
        yield f"{where}: {_shown(one)} against {_shown(other)}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bool(np.allclose(one, other, rtol=0, atol=TOLERANCE))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=TOLERANCE)
    return type(one) is type(other) and bool(one == other)


def _shown(value: Any) -> str:
    shape: Sequence[int] | None = getattr(value, "shape", None)
    return f"tensor of shape {tuple(shape)}" if shape is not None else repr(value)[:80]
