"""Checkpoints of running trials: tensors and AdamW's moments at an epoch's end, whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from orchestrator.engine.training import Training
from orchestrator.errors import CheckpointError
from orchestrator.files import make_folder, write_whole
from orchestrator.spec import Point

_PARTS = ("tensor", "first", "second")


def path_of(folder: Path, key: str) -> Path:
    """Where the checkpoint of a trial lies."""
    return folder / f"{key}.safetensors"


def write(training: Training, folder: Path) -> None:
    """Writes a trial that stands at the end of an epoch, outside its stack."""
    tensors = {}
    for name, tensor in training.member.tensors.items():
        first, second = training.moments[name]
        for part, value in zip(_PARTS, (tensor, first, second), strict=True):
            tensors[f"{part}:{name}"] = value.detach().cpu().contiguous()
    progress = {
        "key": training.key,
        "epoch": training.epoch,
        "step": training.step,
        "seconds": training.seconds,
        "started": training.started,
        "curve": [asdict(point) for point in training.curve],
    }
    make_folder(folder)
    write_whole(path_of(folder, training.key), save(tensors, {"progress": json.dumps(progress)}))


def restore(training: Training, folder: Path) -> bool:
    """Brings a fresh trial to its checkpoint; False if it has none.

    Raises `CheckpointError` naming the file if it is damaged or of another trial.
    """
    path = path_of(folder, training.key)
    if not path.exists():
        return False
    progress, tensors = _read(path)
    expected = {f"{part}:{name}" for name in training.member.tensors for part in _PARTS}
    if progress.get("key") != training.key or set(tensors) != expected:
        raise CheckpointError(
            f"{path} belongs to another trial; delete it and run the same command again."
        )
    parts = {part: {n: tensors[f"{part}:{n}"] for n in training.member.tensors} for part in _PARTS}
    training.member = replace(training.member, tensors=parts["tensor"])
    training.moments = {n: (parts["first"][n], parts["second"][n]) for n in parts["tensor"]}
    training.epoch, training.step = progress["epoch"], progress["step"]
    training.seconds, training.started = progress["seconds"], progress["started"]
    training.curve = [Point(**point) for point in progress["curve"]]
    return True


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return json.loads((file.metadata() or {})["progress"]), tensors
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error}); delete it and run the same command again: "
            "its trial starts anew, nothing finished is lost."
        ) from error
