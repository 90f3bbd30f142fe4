"""Google's original layout of Vision Transformers: a `.npz` of JAX arrays.

timm's own loader reads it (`VisionTransformer.load_pretrained`), without unpickling. It resizes
embeddings and leaves further blocks out without a word; both are refused here.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backbones.fit import Shapes, check_shapes, shapes_of
from orchestrator.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

_PREFIXES = ("", "opt/target/", "params/", "params/img/")
_LEFT_OUT = re.compile(r"(head|pre_logits)/")
"""Heads; timm's `orig_in21k` features, and the papers', come before `pre_logits`."""


def fill_from_npz(model: nn.Module, path: Path, architecture: str) -> None:
    """Copies the arrays into the model; `CheckpointError` naming the file and what is wrong."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise CheckpointError(
            f"'{path}': .npz is the original layout of Vision Transformers, {architecture} is "
            "none; give its .safetensors or .pth file."
        )
    shapes = _shapes(path)
    _check_embeddings(model, path, architecture, shapes)
    try:
        model.load_pretrained(str(path))
    except Exception as error:  # a missing key, a shape, a damaged member: all the same to a person
        raise CheckpointError(
            f"'{path}' does not fit {architecture} in Google's original layout: {error}."
        ) from error
    _check_amount(model, path, architecture, shapes)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array → shape without the prefix that some files have, from the headers alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                name.removesuffix(".npy"): _shape(archive, name) for name in archive.namelist()
            }
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"'{path}' cannot be read as .npz: {error}.") from error
    kernel = "embedding/kernel"
    prefix = next((p for p in _PREFIXES if p + kernel in found), None)
    if prefix is None:
        raise CheckpointError(
            f"'{path}' is not in Google's original layout: it has no array '{kernel}'."
        )
    return {n.removeprefix(prefix): shape for n, shape in found.items() if n.startswith(prefix)}


def _shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    from numpy.lib import format as npy

    with archive.open(member) as file:
        old = npy.read_magic(file) == (1, 0)
        read: Any = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
        shape: tuple[int, ...] = read(file)[0]
        return shape


def _check_embeddings(model: nn.Module, path: Path, architecture: str, shapes: Shapes) -> None:
    """The two tensors that timm would resize."""
    kernel = shapes["embedding/kernel"]
    # (height, width, in, out) there, (out, in, height, width) here
    found = {"patch_embed.proj.weight": (*kernel[:1:-1], *kernel[:2])}
    for name in [name for name in shapes if name.endswith("pos_embedding")]:
        found["pos_embed"] = shapes[name]
    own = shapes_of(model.state_dict())
    check_shapes(path, architecture, {n: own[n] for n in found if n in own}, found)


def _check_amount(model: nn.Module, path: Path, architecture: str, shapes: Shapes) -> None:
    """What timm left out or spread over a larger tensor shows in the number of values."""
    found = sum(math.prod(s) for name, s in shapes.items() if not _LEFT_OUT.match(name))
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if found != wanted:
        raise CheckpointError(
            f"'{path}' does not fit {architecture}: without heads it has {found:,} values, "
            f"the architecture {wanted:,}. Give the file of this architecture."
        )
