"""Names of backbones: which exist, checked before anything is built or downloaded."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidInput, unknown

if TYPE_CHECKING:
    from torch import nn

MINI = "vit_mini"
MINI_FILE = Path(__file__).parent / "vit_mini.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt", ".pth.tar")
"""In lower or upper case."""
_FILE = f"ARCHITECTURE@FILE with FILE one of {', '.join(SUFFIXES)}"
_IN21K = {
    "orig_in21k": "the original weights; EFFT and FacT used them",
    "augreg_in21k": "AugReg's",
}
"""The meanings that timm's old names in `_in21k` have had over time."""


def timm_name(name: str) -> str:
    """The name without what the hub prints before its tag: `hf-hub:timm/TAG`, `timm/TAG`."""
    return re.sub(r"^(hf[-_]hub:|hf://|https://huggingface\.co/)?timm/", "", name)


def architecture(name: str) -> str:
    """The timm model name (with its tag, if any) of a backbone's name."""
    return timm_name(name).partition("@")[0]


def check(name: str) -> None:
    """`InvalidInput` unless the name has one of the three forms and determines its weights."""
    tag, at, _ = timm_name(name).partition("@")
    if tag == MINI:
        return
    _check_known(tag)
    _check_current(tag, bool(at))
    check_supported(tag.partition(".")[0])
    _check_tag(tag, bool(at))


def prefix_of(name: str) -> str:
    """The PREFIX of `ARCHITECTURE@FILE#PREFIX`: that of the tensors which are meant; or empty."""
    path, _, prefix = name.partition("@")[2].rpartition("#")
    return prefix if path.lower().endswith(SUFFIXES) else ""


def local_file(name: str) -> Path:
    """The FILE of `ARCHITECTURE@FILE[#PREFIX]`; `InvalidInput` if it is not a weights file."""
    prefix = prefix_of(name)
    path = name.partition("@")[2].removesuffix(f"#{prefix}" if prefix else "#")
    file = Path(path).expanduser()
    what = f"backbone '{name:.200}': "
    if not file.name.lower().endswith(SUFFIXES):
        raise InvalidInput(f"{what}'{path:.200}' is no file of weights; write {_FILE}.")
    if not os.path.isfile(file):  # False also for a name that is too long
        raise InvalidInput(f"{what}there is no file '{path:.200}'; write {_FILE}.")
    return file


def pretrained(tag: str) -> list[str]:
    """Names with tag that timm has weights for: `tag` itself, or all tags of an architecture."""
    import timm

    model, _, weights = tag.partition(".")
    known = timm.list_pretrained(f"{model}.*")
    return [other for other in known if not weights or other == tag]


def _check_known(tag: str) -> None:
    import timm

    model = tag.partition(".")[0]
    if timm.is_model(model):
        return
    close = difflib.get_close_matches(model, [MINI, *timm.list_models()], n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise InvalidInput(
        f"unknown backbone '{tag:.200}'.{hint} Available: {MINI}, every ViT, DeiT and Swin of "
        f"timm.list_models() with its tag, or {_FILE}."
    )


def _check_current(tag: str, has_file: bool) -> None:
    """Refuse names that timm has deprecated; some have meant more than one set of weights."""
    from timm.models import get_deprecated_models

    old = tag.partition(".")[0]
    names = get_deprecated_models()
    if old not in names:
        return
    now, _, weights = (names[old] or "").partition(".")
    if not now:
        raise InvalidInput(f"backbone '{tag}' is no longer in timm; write the name of another.")
    if has_file:
        raise InvalidInput(f"backbone '{tag}' is an old name of timm's; write {now}@FILE.")
    tags = {name.partition(".")[2] for name in pretrained(now)}
    meanings = [known for known in _IN21K if known in tags]
    if weights in meanings and len(meanings) > 1:
        choices = " or ".join(f"{now}.{known} ({_IN21K[known]})" for known in meanings)
        raise InvalidInput(
            f"backbone '{tag}' changed its meaning between versions of timm; write {choices}."
        )
    choices = " or ".join(f"{now}.{known}" for known in sorted({weights} & tags or tags))
    raise InvalidInput(f"backbone '{tag}' is an old name of timm's; write {choices}.")


def _check_tag(tag: str, has_file: bool) -> None:
    """Without a file, require a tag: timm's default weights differ between versions."""
    model, _, weights = tag.partition(".")
    known = [name.partition(".")[2] for name in pretrained(model)]
    if weights and weights not in known:
        raise unknown(f"pre-training tag of '{model}'", weights, known)
    if weights or has_file:
        return
    if not known:
        raise InvalidInput(
            f"backbone '{model}' has no weights on the hub; give a file: {model}@FILE, with FILE "
            f"one of {', '.join(SUFFIXES)}."
        )
    raise InvalidInput(
        f"backbone '{model}' does not say which weights (timm's default changes between versions); "
        f"write {model}.TAG, with TAG one of {', '.join(known)}, or {model}@FILE."
    )


def empty_model(tag: str) -> nn.Module:
    """The headless model of `vit_mini` or a timm name, with tensors on the device `meta`.

    That takes 0.1 s for any size; random initialisation of a ViT-H takes 10 s.
    """
    import timm
    import torch

    from orchestrator.backbones.vit_mini import vit_mini

    with torch.device("meta"):
        return vit_mini() if tag == MINI else timm.create_model(tag, num_classes=0)


def image_size(model: nn.Module) -> int:
    """The side in pixels of the inputs of a supported model."""
    embedding: Any = model.patch_embed
    return int(embedding.img_size[0])


def check_supported(model: str) -> None:
    """`InvalidInput` unless timm's model of that name is a standard ViT, DeiT or Swin."""
    part = _unsupported_part(empty_model(model))
    if part:
        raise InvalidInput(
            f"backbone '{model}' is not supported: it has a {part}; allowed are timm's "
            "VisionTransformer (ViT, and DeiT without a distillation head) with standard blocks, "
            "and SwinTransformer (the first version)."
        )


def _unsupported_part(model: nn.Module) -> str | None:
    """The class of the first part without adapter support: the model, a block or a part of it."""
    from timm.layers import Attention, Mlp
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) is SwinTransformer:
        return None
    if type(model) is not VisionTransformer:  # subclasses differ in tokens, heads or forward
        return type(model).__name__
    for block in model.blocks:
        for path, wanted in (("", Block), ("attn", Attention), ("mlp", Mlp)):
            found = block.get_submodule(path)
            if type(found) is not wanted:
                return type(found).__name__
    return None
