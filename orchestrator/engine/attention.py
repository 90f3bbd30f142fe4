"""Which of timm's two ways of computing attention suits the device: fused, or plain products."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SHORT = 32
"""Tokens up to which a CPU is faster with plain products. Measured forward and backward, a whole
attention module: 17 and 26 tokens in heads of 16 channels take 14 to 17 % less time, 50 or more
tokens, or heads of 64 channels, as long or longer."""


def suit(model: nn.Module, device: torch.device) -> None:
    """Switches a ViT's attention to plain products on a CPU, if its sequences are short."""
    prefix = getattr(model, "num_prefix_tokens", None)  # Swin has none: its windows are larger
    if device.type != "cpu" or prefix is None:
        return
    timms: Any = model
    if timms.patch_embed.num_patches + prefix > SHORT:
        return
    for module in timms.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
