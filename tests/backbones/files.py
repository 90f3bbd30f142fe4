"""Writers of weights files in the layouts that their authors published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

Arrays = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]


def random_model(name: str, classes: int) -> Any:
    """A timm model in eval mode; timm's own initialisation takes seconds."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=classes).eval()
    randomise(model.to_empty(device="cpu"))
    for module in model.modules():  # Swin's masks and indices
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
    return model


def randomise(model: torch.nn.Module) -> None:
    """Every parameter away from its initial value: biases are zero and norms one by default."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.normal_(std=0.05 if parameter.ndim > 1 else 0.3)


def save_torch(content: Any, path: Path, **options: Any) -> Path:
    """A file as people share it, by `torch.save`."""
    torch.save(content, path, **options)  # noqa: TID251 (files to be read are made here)
    return path


def google_arrays(model: VisionTransformer) -> Arrays:
    """The arrays of `ViT-B_16.npz` and its like, from a timm ViT with a head.

    Dense kernels are (in, out); those of attention (in, heads, dim) and (heads, dim, out); the
    patch embedding is (height, width, in, out). A `pre_logits` layer lies before the head.
    """
    arrays = {
        "cls": model.cls_token,
        "embedding/kernel": model.patch_embed.proj.weight.permute(2, 3, 1, 0),
        "embedding/bias": model.patch_embed.proj.bias,
        "Transformer/posembed_input/pos_embedding": model.pos_embed,
        **_norm("Transformer/encoder_norm", model.norm),
        "pre_logits/kernel": torch.ones(model.embed_dim, model.embed_dim),
        "pre_logits/bias": torch.ones(model.embed_dim),
        "head/kernel": model.head.weight.T,
        "head/bias": model.head.bias,
    }
    for index, block in enumerate(model.blocks):
        arrays |= _block(f"Transformer/encoderblock_{index}", block)
    return {name: array.detach().contiguous().numpy() for name, array in arrays.items()}


def _block(prefix: str, block: Any) -> dict[str, Tensor]:
    width, heads = block.attn.proj.in_features, block.attn.num_heads
    attention, mlp = f"{prefix}/MultiHeadDotProductAttention_1", f"{prefix}/MlpBlock_3"
    arrays = {
        **_norm(f"{prefix}/LayerNorm_0", block.norm1),
        **_norm(f"{prefix}/LayerNorm_2", block.norm2),
        f"{attention}/out/kernel": block.attn.proj.weight.T.reshape(heads, width // heads, width),
        f"{attention}/out/bias": block.attn.proj.bias,
    }
    weights, biases = block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        arrays[f"{attention}/{part}/kernel"] = weight.T.reshape(width, heads, width // heads)
        arrays[f"{attention}/{part}/bias"] = bias.reshape(heads, width // heads)
    for index, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
        arrays[f"{mlp}/Dense_{index}/kernel"] = layer.weight.T
        arrays[f"{mlp}/Dense_{index}/bias"] = layer.bias
    return arrays


def _norm(name: str, norm: Any) -> dict[str, Tensor]:
    return {f"{name}/scale": norm.weight, f"{name}/bias": norm.bias}


def microsoft_state(model: SwinTransformer) -> dict[str, Tensor]:
    """As in Swin's first checkpoints: each stage ends with its downsampling; buffers are kept."""

    def name_there(name: str) -> str:
        earlier = re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        return earlier.replace("head.fc.", "head.")

    buffers = {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.endswith(("relative_position_index", "attn_mask"))
    }
    return {name_there(name): t.clone() for name, t in {**model.state_dict(), **buffers}.items()}


def without(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All but one."""
    return {other: array for other, array in arrays.items() if other != name}
