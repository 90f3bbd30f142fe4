"""Backbones: a timm model name, its weights (fingerprinted) and how inputs are normalised.

A name is `vit_mini` (shipped), a timm tag such as `vit_base_patch16_224.augreg_in21k` (weights from
the Hugging Face cache or hub), or `ARCHITECTURE@FILE.safetensors` for weights on disk. Weights are
read as safetensors only; nothing is unpickled.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator import files
from orchestrator.errors import CheckpointError, InvalidInput, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

MINI = "vit_mini"
MINI_FILE = Path(__file__).parent / "weights" / "vit_mini.safetensors"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of inputs in [0, 1]."""


@dataclass(frozen=True)
class Backbone:
    """A frozen timm model without head (`num_classes=0`, eval mode) and its identity.

    `fingerprint` is the SHA-256 of the weights file; `image_size` the side its inputs must have.
    """

    name: str
    model: nn.Module
    fingerprint: str
    image_size: int
    own_statistics: Statistics

    def normalisation(self, kind: str) -> Statistics:
        """Mean and standard deviation for `imagenet`, `half`, or `backbone` (as pre-trained)."""
        kinds = {"imagenet": IMAGENET, "half": HALF, "backbone": self.own_statistics}
        if kind not in kinds:
            raise unknown("normalisation", kind, kinds)
        return kinds[kind]


def fingerprint(name: str) -> str:
    """SHA-256 of the backbone's weights file, without building the model."""
    return files.fingerprint(_weights_file(name))


def load_backbone(name: str) -> Backbone:
    """Builds the model and loads its weights strictly; `CheckpointError` if they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _weights_file(name)
    model = _build(name)
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error
    headless = {key: value for key, value in state.items() if not key.startswith("head.")}
    try:
        model.load_state_dict(headless)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {architecture(name)}: {error}") from error
    model.eval().requires_grad_(False)
    return Backbone(
        name, model, files.fingerprint(path), _image_size(model), _own_statistics(name, model)
    )


def twin(model: nn.Module) -> nn.Module:
    """Another module tree over the same weight tensors, so that each stack has its own."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, cast("dict[int, object]", shared))


def copy_of(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a frozen model on a device in a dtype."""
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def architecture(name: str) -> str:
    return name.partition("@")[0]


def _weights_file(name: str) -> Path:
    if name == MINI:
        return MINI_FILE
    architecture, at, path = name.partition("@")
    if at:
        file = Path(path).expanduser()
        if file.suffix != ".safetensors" or not file.is_file():
            raise InvalidInput(
                f"backbone '{name}': '{path}' is not a .safetensors file; write ARCHITECTURE@FILE.safetensors."
            )
        return file
    return _hub_file(architecture)


def _hub_file(tag: str) -> Path:
    """The weights of a timm tag, from the local Hugging Face cache or else the hub."""
    import timm
    from huggingface_hub import hf_hub_download

    _check_architecture(tag)
    config = timm.get_pretrained_cfg(tag)
    if config is None or not config.hf_hub_id:
        raise InvalidInput(
            f"backbone '{tag}' names no weights on the hub; choose a tag from "
            f"{', '.join(timm.list_pretrained(tag.split('.')[0] + '*')[:8]) or 'timm.list_pretrained()'}."
        )
    try:
        return Path(hf_hub_download(config.hf_hub_id, "model.safetensors"))
    except (
        Exception
    ) as error:  # the hub client raises many unrelated types; all mean "not to be had"
        raise CheckpointError(
            f"the weights of '{tag}' are neither cached nor reachable ({type(error).__name__}); download "
            f"model.safetensors of huggingface.co/{config.hf_hub_id} and pass --backbone "
            f"{tag.split('.')[0]}@/path/to/model.safetensors."
        ) from error


def _build(name: str) -> nn.Module:
    if name == MINI:
        from orchestrator.weights.architecture import vit_mini

        return vit_mini()
    import timm

    _check_architecture(architecture(name))
    return timm.create_model(architecture(name), pretrained=False, num_classes=0)


def _check_architecture(tag: str) -> None:
    import timm

    if not timm.is_model(tag):
        raise unknown(
            "backbone", tag, [MINI, *timm.list_models("vit*"), *timm.list_models("deit*")]
        )


def _image_size(model: nn.Module) -> int:
    size = model.patch_embed.img_size
    return int(size[0])


def _own_statistics(name: str, model: nn.Module) -> Statistics:
    if name == MINI:
        return HALF
    config = getattr(model, "pretrained_cfg", {})
    return tuple(config.get("mean", HALF[0])), tuple(config.get("std", HALF[1]))
