"""Backbones: a timm model name, its weights (fingerprinted) and how inputs are normalised.

A name is `vit_mini` (shipped), a timm model with its tag such as
`vit_base_patch16_224.augreg_in21k` (weights from the Hugging Face cache or hub), or
`ARCHITECTURE@FILE` for weights on disk: `.safetensors`, `.pth` (`.pt`, `.bin`), or Google's
original `.npz`. Nothing is unpickled but tensors.
"""

from __future__ import annotations

from orchestrator.backbones.backbone import (
    HALF,
    IMAGENET,
    Backbone,
    Statistics,
    copy_of,
    fingerprint,
    load_backbone,
    meta_copy,
    normalisation_of,
    shared_copy,
)
from orchestrator.backbones.names import MINI, MINI_FILE, architecture

__all__ = [
    "HALF",
    "IMAGENET",
    "MINI",
    "MINI_FILE",
    "Backbone",
    "Statistics",
    "architecture",
    "copy_of",
    "fingerprint",
    "load_backbone",
    "meta_copy",
    "normalisation_of",
    "shared_copy",
]
