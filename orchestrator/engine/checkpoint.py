"""Checkpoints of running trials: tensors and AdamW's moments at an epoch's end, whole or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adapters.base import Kind, Parameter
from orchestrator.engine.training import Evaluation, Training
from orchestrator.errors import CheckpointError
from orchestrator.spec import Point
from orchestrator.storage.files import make_folder, write_whole

_PARTS = ("tensor", "first", "second")


def path_of(folder: Path, key: str) -> Path:
    """Where the checkpoint of a trial lies."""
    return folder / f"{key}.safetensors"


def write(training: Training, folder: Path) -> None:
    """Writes a trial that stands at the end of an epoch, outside its stack."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(training).items()
    }
    progress = {
        "key": training.key,
        "epoch": training.epoch,
        "step": training.step,
        "seconds": training.seconds,
        "started": training.started,
        "curve": [asdict(point) for point in training.curve],
        "counted": _counted(training.counted),
    }
    text = json.dumps(progress)
    metadata = {"progress": text, "sha256": _digest(text, tensors)}
    make_folder(folder)
    write_whole(path_of(folder, training.key), save(tensors, metadata))


def restore(training: Training, folder: Path) -> bool:
    """Brings a fresh trial to its checkpoint; False if it has none.

    Raises `CheckpointError` naming the file if it is damaged or of another trial.
    """
    path = path_of(folder, training.key)
    if not path.exists():
        return False
    progress, tensors = _read(path)
    own = training.member.parameters
    expected = {f"{part}:{n}": p.value.shape for n, p in own.items() for part in _parts(p)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if progress["key"] != training.key or found != expected:
        raise CheckpointError(
            f"checkpoint {path} belongs to another trial; delete it and run the same command again."
        )
    parts = {n: [tensors[f"{part}:{n}"] for part in _parts(p)] for n, p in own.items()}
    training.member = training.member.with_tensors({n: some[0] for n, some in parts.items()})
    training.moments = {n: (some[1], some[2]) for n, some in parts.items() if len(some) > 1}
    training.epoch, training.step = progress["epoch"], progress["step"]
    training.seconds, training.started = progress["seconds"], progress["started"]
    training.curve = [Point(**point) for point in progress["curve"]]
    training.counted = _evaluation(progress["counted"])
    return True


def _counted(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return {**asdict(evaluation), "correct": evaluation.correct.hex()}


def _evaluation(values: dict[str, Any] | None) -> Evaluation | None:
    if values is None:
        return None
    return Evaluation(**{**values, "correct": bytes.fromhex(values["correct"])})


def _tensors(training: Training) -> dict[str, Tensor]:
    """`tensor:NAME`, `first:NAME` and `second:NAME` of every tensor; a state's first only."""
    return {
        f"{part}:{name}": value
        for name, own in training.member.parameters.items()
        for part, value in zip(
            _parts(own), (own.value, *training.moments.get(name, ())), strict=True
        )
    }


def _parts(parameter: Parameter) -> tuple[str, ...]:
    return _PARTS[:1] if parameter.kind is Kind.STATE else _PARTS


def _digest(progress: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of everything in the file: safetensors itself notices only missing bytes."""
    digest = hashlib.sha256(progress.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        if _digest(metadata["progress"], tensors) != metadata["sha256"]:
            raise ValueError("its content does not have the checksum that it was written with")
        progress: dict[str, Any] = json.loads(metadata["progress"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error}); delete it and run the same command again: "
            "its trial starts anew, nothing finished is lost."
        ) from error
    return progress, tensors
