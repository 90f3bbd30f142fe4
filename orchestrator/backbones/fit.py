"""Whether the tensors of a file are those of an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(path: Path, architecture: str, wanted: Shapes, found: Shapes) -> None:
    """`CheckpointError` naming the first tensors that differ in name or shape."""
    differing = sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))
    if differing:
        shown = "; ".join(
            f"{n}: expected {wanted.get(n, 'nothing')}, found {found.get(n, 'nothing')}"
            for n in differing[:3]
        )
        raise CheckpointError(
            f"'{path}' does not fit {architecture}: {len(differing)} tensors differ ({shown}). "
            "Give the file of this architecture and image size (nothing is resized), in timm's "
            "names or its authors' own."
        )


def check_filled(path: Path, architecture: str, model: nn.Module) -> None:
    """`CheckpointError` if any value of the model is not finite: not in the file, or damaged."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    bad = [name for name, tensor in tensors if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"'{path}' leaves {len(bad)} tensors of {architecture} without finite values "
            f"({', '.join(bad[:3])}): it is damaged, or of another architecture."
        )
