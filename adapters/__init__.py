"""Parameter-efficient fine-tuning of timm Vision Transformers, on a trial axis.

Usable alone: this package imports torch, timm and safetensors, nothing of the orchestrator.
"""

from adapters.arc import ARC
from adapters.attach import attach, attach_members, attached, detach
from adapters.base import Adapter
from adapters.bitfit import BitFit
from adapters.bottleneck import AdaptFormer, Bottleneck
from adapters.efft import EFFT1, EFFT2
from adapters.errors import AdapterError, UnsupportedBackbone
from adapters.fact import FactTK, FactTT
from adapters.full import Full, Partial
from adapters.hta import HTA, HTAAdapter
from adapters.linear import LinearProbe
from adapters.lora import LoRA
from adapters.merge import merge
from adapters.mlp_head import MLPHead
from adapters.names import build, get, names
from adapters.noah import NOAH
from adapters.rlrr import RLRR
from adapters.ssf import SSF
from adapters.storage import load, save
from adapters.vpt import VPTDeep, VPTShallow

__all__ = [
    "ARC",
    "EFFT1",
    "EFFT2",
    "HTA",
    "NOAH",
    "RLRR",
    "SSF",
    "AdaptFormer",
    "Adapter",
    "AdapterError",
    "BitFit",
    "Bottleneck",
    "FactTK",
    "FactTT",
    "Full",
    "HTAAdapter",
    "LinearProbe",
    "LoRA",
    "MLPHead",
    "Partial",
    "UnsupportedBackbone",
    "VPTDeep",
    "VPTShallow",
    "attach",
    "attach_members",
    "attached",
    "build",
    "detach",
    "get",
    "load",
    "merge",
    "names",
    "save",
]
