"""Backbones: a timm model name, its weights (fingerprinted) and how inputs are normalised.

A name is `vit_mini` (shipped), a timm model with its tag such as
`vit_base_patch16_224.augreg_in21k` (weights from the Hugging Face cache or hub), or
`ARCHITECTURE@FILE` for weights on disk: `.safetensors`, `.pth` (`.pt`, `.bin`, `.ckpt`,
`.pth.tar`), or Google's original `.npz`. `ARCHITECTURE@FILE#PREFIX` takes the tensors whose names
begin so, where a file holds more than one model. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator.backbones.hub import cached_file, check_reachable, hub_file
from orchestrator.backbones.names import (
    MINI,
    MINI_FILE,
    architecture,
    check,
    empty_model,
    image_size,
    local_file,
    prefix_of,
    pretrained,
    timm_name,
)
from orchestrator.errors import CheckpointError, InvalidInput, unknown
from orchestrator.storage import files

if TYPE_CHECKING:
    import torch
    from torch import nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of inputs in [0, 1]."""


@dataclass(frozen=True)
class Backbone:
    """A frozen timm model without head (`num_classes=0`, eval mode) and its identity.

    `fingerprint` is the SHA-256 of the weights file, `image_size` the side of its inputs in pixels,
    `own_statistics` those of its pre-training, None if the name does not determine them.
    """

    name: str
    model: nn.Module
    fingerprint: str
    image_size: int
    own_statistics: Statistics | None

    def normalisation(self, kind: str) -> Statistics:
        """As `normalisation_of` for this backbone."""
        return _normalisation(self.name, kind, self.own_statistics)


def normalisation_of(name: str, kind: str) -> Statistics:
    """Mean and standard deviation for `imagenet`, `half`, or `backbone` (as pre-trained).

    `InvalidInput` for another kind, or if the (checked) name does not determine its pre-training.
    """
    return _normalisation(name, kind, own_statistics(name) if kind == "backbone" else None)


def fingerprint(name: str) -> str:
    """SHA-256 of the backbone's weights file, without loading it.

    `InvalidInput` for a name that is unknown, has no weights or is no Vision or Swin Transformer,
    `CheckpointError` if the weights cannot be found or downloaded.
    """
    return _fingerprint(_weights_file(name))


def weights_here(name: str) -> bool:
    """Whether the weights are on this machine; False if the hub has them. Downloads nothing.

    Raises as `fingerprint`.
    """
    tag = architecture(name)
    check(name)
    if "@" in name:
        return local_file(name).exists()
    if tag == MINI or cached_file(tag) is not None:
        return True
    check_reachable(tag)
    return False


def load_backbone(name: str) -> Backbone:
    """Build the model and load its weights strictly: every tensor comes from the file.

    Raises as `fingerprint`, and `CheckpointError` if the weights do not fit.
    """
    from orchestrator.backbones.weights import fill

    path = _weights_file(name)
    model = empty_model(architecture(name))
    fill(model, path, architecture(name), prefix_of(name))
    model.eval().requires_grad_(False)
    return Backbone(name, model, _fingerprint(path), image_size(model), own_statistics(name))


def own_statistics(name: str) -> Statistics | None:
    """Input statistics of pre-training; None if the (checked) name does not determine them.

    A bare architecture has the statistics of its tags if they all agree.
    """
    tag, _, file = timm_name(name).partition("@")
    if tag == MINI:
        return HALF
    if "." not in tag and file.lower().endswith(".npz"):
        return HALF  # Google trained theirs on inputs in [-1, 1]
    import timm

    configs = [timm.get_pretrained_cfg(known) for known in pretrained(tag)]
    found = {(tuple(c.mean), tuple(c.std)) for c in configs if c is not None}
    return found.pop() if len(found) == 1 else None


def shared_copy(model: nn.Module) -> nn.Module:
    """Another module tree over the same weight tensors, so that each stack has its own modules."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, cast("dict[int, object]", shared))


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy without data (tensors on the device `meta`), to count operations and sizes with."""
    import torch
    from torch import nn

    empty: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in model.parameters()
    }
    empty |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, empty)


def copy_of(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a frozen model on a device in a dtype."""
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def _normalisation(name: str, kind: str, own: Statistics | None) -> Statistics:
    kinds = {"imagenet": IMAGENET, "half": HALF, "none": NONE, "backbone": own}
    if kind not in kinds:
        raise unknown("normalisation", kind, kinds)
    statistics = kinds[kind]
    if statistics is None:
        raise InvalidInput(
            f"normalisation '{kind}': how the weights of '{name}' were pre-trained is not known; "
            f"choose imagenet, half or none, or name the tag too: {architecture(name)}.TAG@FILE."
        )
    return statistics


def _fingerprint(path: Path) -> str:
    try:
        return files.fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"the weights '{path}' cannot be read: {error.strerror}.") from error


def _weights_file(name: str) -> Path:
    tag = architecture(name)
    check(name)
    if "@" in name:
        return local_file(name)
    return MINI_FILE if tag == MINI else hub_file(tag)
