"""Which timm models can be backbones, and one of them without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

MINI = "vit_mini"


def empty(tag: str) -> nn.Module:
    """The headless model of `vit_mini` or a timm name, its tensors on the meta device.

    That costs a tenth of a second for any size; random initialisation takes ten for a ViT-H.
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
    stranger = _stranger(empty(model))
    if stranger:
        raise InvalidInput(
            f"backbone '{model}' is not supported: it has a {stranger}; allowed are timm's "
            "VisionTransformer (ViT, and DeiT without a distillation head) with standard blocks, "
            "and SwinTransformer (the first version)."
        )


def _stranger(model: nn.Module) -> str | None:
    """The class of the first part that no adapter knows: the model, a block, its inside."""
    from timm.layers import Attention, Mlp
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) is SwinTransformer:
        return None
    if type(model) is not VisionTransformer:  # subclasses have other tokens, heads or passes
        return type(model).__name__
    for block in model.blocks:
        for path, wanted in (("", Block), ("attn", Attention), ("mlp", Mlp)):
            found = block.get_submodule(path)
            if type(found) is not wanted:
                return type(found).__name__
    return None
