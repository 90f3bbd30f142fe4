"""Backbones: a timm model name, its weights (fingerprinted) and how inputs are normalised.

A name is `vit_mini` (shipped), a timm tag such as `vit_base_patch16_224.augreg_in21k` (weights from
the Hugging Face cache or hub), or `ARCHITECTURE@FILE.safetensors` for weights on disk. Weights are
read as safetensors only; nothing is unpickled.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator import files
from orchestrator.errors import CheckpointError, InvalidInput, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MINI = "vit_mini"
MINI_FILE = Path(__file__).parent / "weights" / "vit_mini.safetensors"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of inputs in [0, 1]."""
_HEADS = ("head.", "head_dist.")
"""What a checkpoint may have and a backbone leaves out."""


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
    """SHA-256 of the backbone's weights file, without building the model.

    `InvalidInput` for an unknown name, `CheckpointError` if the weights are not to be had.
    """
    path = _weights_file(name)
    try:
        return files.fingerprint(path)
    except OSError as error:
        raise CheckpointError(f"the weights '{path}' cannot be read: {error.strerror}.") from error


def load_backbone(name: str) -> Backbone:
    """Builds the model and loads its weights strictly.

    Raises as `fingerprint`, `CheckpointError` too if the weights do not fit, and `InvalidInput` for
    a model that is no Vision Transformer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _weights_file(name)
    model = _build(name)
    size = _image_size(name, model)
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}.") from error
    headless = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    _check_shapes(f"'{path}' does not fit {architecture(name)}", model.state_dict(), headless)
    model.load_state_dict(headless)
    model.eval().requires_grad_(False)
    return Backbone(name, model, fingerprint(name), size, _own_statistics(name, model))


def twin(model: nn.Module) -> nn.Module:
    """Another module tree over the same weight tensors, so that each stack has its own."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, cast("dict[int, object]", shared))


def copy_of(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy of a frozen model on a device in a dtype."""
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def architecture(name: str) -> str:
    """The timm model name (with its tag, if any) of a backbone's name."""
    return name.partition("@")[0]


def _weights_file(name: str) -> Path:
    if name == MINI:
        return MINI_FILE
    tag, at, path = name.partition("@")
    _check_architecture(tag)
    if at:
        file = Path(path).expanduser()
        if file.suffix != ".safetensors" or not file.is_file():
            raise InvalidInput(
                f"backbone '{name}': '{path}' is not a .safetensors file that exists; write "
                "ARCHITECTURE@FILE.safetensors."
            )
        return file
    return _hub_file(tag)


def _hub_file(tag: str) -> Path:
    """The weights of a timm tag, from the local Hugging Face cache or else the hub."""
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(tag)
    if config is None or not config.hf_hub_id:
        raise InvalidInput(
            f"backbone '{tag}' names no weights on the hub; give a file: {tag}@FILE.safetensors."
        )
    try:
        return Path(hf_hub_download(config.hf_hub_id, "model.safetensors"))
    except Exception as error:  # of many unrelated types, which all mean: not to be had
        raise CheckpointError(
            f"the weights of '{tag}' are neither cached nor reachable ({type(error).__name__}); "
            f"download model.safetensors of huggingface.co/{config.hf_hub_id} and pass --backbone "
            f"{tag}@/path/to/model.safetensors."
        ) from error


def _build(name: str) -> nn.Module:
    """The untrained model of a name that `_weights_file` has accepted."""
    if architecture(name) == MINI:
        from orchestrator.weights.architecture import vit_mini

        return vit_mini()
    import timm

    return timm.create_model(architecture(name), pretrained=False, num_classes=0)


def _check_architecture(tag: str) -> None:
    """`InvalidInput` unless `tag` is `vit_mini`, a timm model, or one with a tag timm knows."""
    if tag == MINI:
        return
    import timm

    model, _, weights = tag.partition(".")
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, [MINI, *timm.list_models()], n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise InvalidInput(
            f"unknown backbone '{tag}'.{hint} Available: {MINI}, every ViT, DeiT and Swin of "
            "timm.list_models(), or ARCHITECTURE@FILE.safetensors."
        )
    known = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
    if weights and weights not in known:
        raise unknown(f"pre-training tag of '{model}'", weights, known)


def _check_shapes(problem: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """`CheckpointError` naming the first tensors that differ in name or shape."""
    expected, given = ({n: tuple(t.shape) for n, t in some.items()} for some in (wanted, found))
    differing = sorted(n for n in {*expected, *given} if expected.get(n) != given.get(n))
    if differing:
        shown = "; ".join(
            f"{n}: expected {expected.get(n, 'nothing')}, found {given.get(n, 'nothing')}"
            for n in differing[:3]
        )
        raise CheckpointError(
            f"{problem}: {len(differing)} tensors differ ({shown}). Give the file of this "
            "architecture, as safetensors with timm's names."
        )


def _image_size(name: str, model: nn.Module) -> int:
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is None:
        raise InvalidInput(
            f"backbone '{name}' has no patch embedding of a fixed image size; allowed: timm's ViT, "
            "DeiT and Swin."
        )
    return int(size[0])


def _own_statistics(name: str, model: nn.Module) -> Statistics:
    if architecture(name) == MINI:
        return HALF
    config = getattr(model, "pretrained_cfg", {})
    return tuple(config.get("mean", HALF[0])), tuple(config.get("std", HALF[1]))
