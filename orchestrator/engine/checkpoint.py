"""Checkpoints of running trials at the end of an epoch: tensors and the optimiser's moments.

One safetensors file per trial, with a checksum of its whole content; written atomically.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adapters.base import Kind, Parameter
from orchestrator.engine.evaluation import Evaluation
from orchestrator.engine.optimiser import STACKED
from orchestrator.engine.training import Training
from orchestrator.errors import CheckpointError, StorageError
from orchestrator.spec import Point
from orchestrator.storage.files import make_folder, open_regular, storage_error, write_whole
from orchestrator.storage.retry import RetryPolicy

_MOMENTS = ("first", "second")


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints in `folder`, at least `interval` seconds apart (0: after every epoch), and
    always at a rung.

    `download` is called with a checkpoint's path before it is read, `upload` after it is written.
    While storage fails transiently a trial goes on without a checkpoint. `StorageError` when
    `retry` gives up, or at once without one.
    """

    folder: Path
    interval: float = 60.0
    retry: RetryPolicy | None = None
    download: Callable[[Path], object] = lambda _: None
    upload: Callable[[Path], object] = lambda _: None

    def save(self, training: Training) -> bool:
        """Write a trial that is at the end of an epoch and outside its stack.

        False if storage failed transiently.
        """
        try:
            self._write(training)
        except StorageError as error:
            if self.retry is None:
                raise
            self.retry.failed(error)
            return False
        if self.retry is not None:
            self.retry.succeeded()
        return True

    def restore(self, training: Training) -> bool:
        """Bring a fresh trial to its checkpoint; False if it has none.

        Raises `CheckpointError` naming the file if it is damaged or of another trial.
        """
        path = path_of(self.folder, training.key)
        self.download(path)
        if not path.exists():
            return False
        progress, tensors = _read(path)
        own = training.member.parameters
        named = {n: _parts(training, p) for n, p in own.items()}
        expected = {f"{part}:{n}": p.value.shape for n, p in own.items() for part in named[n]}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if progress["key"] != training.key or found != expected:
            raise CheckpointError(
                f"checkpoint {path} belongs to another trial; "
                "delete it and run the same command again."
            )
        parts = {n: [tensors[f"{part}:{n}"] for part in named[n]] for n in own}
        training.member = training.member.with_tensors({n: some[0] for n, some in parts.items()})
        training.moments = {n: tuple(some[1:]) for n, some in parts.items() if len(some) > 1}
        training.epoch, training.step = progress["epoch"], progress["step"]
        training.seconds, training.started = progress["seconds"], progress["started"]
        training.curve = [Point(**point) for point in progress["curve"]]
        if counted := progress["counted"]:
            correct = bytes.fromhex(counted["correct"])
            training.counted = Evaluation(**{**counted, "correct": correct})
        return True

    def _write(self, training: Training) -> None:
        path = path_of(self.folder, training.key)
        try:
            make_folder(self.folder)
            write_whole(path, _content(training))
        except OSError as error:
            raise storage_error(f"write the checkpoint '{path}'", error) from error
        self.upload(path)


def path_of(folder: Path, key: str) -> Path:
    """The path of a trial's checkpoint."""
    return folder / f"{key}.safetensors"


def _content(training: Training) -> bytes:
    """The file: `tensor:NAME` of each tensor, and its moments, `first:NAME` and `second:NAME`."""
    tensors = {
        f"{part}:{name}": value.detach().cpu().contiguous()
        for name, own in training.member.parameters.items()
        for part, value in zip(
            _parts(training, own), (own.value, *training.moments.get(name, ())), strict=True
        )
    }
    counted = training.counted
    progress = {
        "key": training.key,
        "epoch": training.epoch,
        "step": training.step,
        "seconds": training.seconds,
        "started": training.started,
        "curve": [asdict(point) for point in training.curve],
        "counted": counted
        and {
            "loss": counted.loss,
            "accuracy": counted.accuracy,
            "correct": counted.correct.hex(),
        },
    }
    text = json.dumps(progress)
    return save(tensors, {"progress": text, "sha256": _digest(text, tensors)})


def _parts(training: Training, parameter: Parameter) -> tuple[str, ...]:
    count = STACKED[training.trial.recipe.optimiser].moment_count
    return ("tensor",) if parameter.kind is Kind.STATE else ("tensor", *_MOMENTS[:count])


def _digest(progress: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the whole content: safetensors itself detects only missing bytes."""
    digest = hashlib.sha256(progress.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with open_regular(path), safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        if _digest(metadata["progress"], tensors) != metadata["sha256"]:
            raise ValueError("its content does not match its checksum")
        progress: dict[str, Any] = json.loads(metadata["progress"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error}); delete it and run the same command again: "
            "its trial starts anew, nothing finished is lost."
        ) from error
    return progress, tensors
