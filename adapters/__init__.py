"""Parameter-efficient fine-tuning of timm Vision Transformers, on a trial axis.

Usable alone: this package imports torch, timm and safetensors, nothing of the orchestrator.
"""

from adapters.attach import attach, attach_members, attached, detach, merge
from adapters.base import Adapter
from adapters.efft2 import EFFT2
from adapters.errors import AdapterError, UnsupportedBackbone
from adapters.hta import HTA
from adapters.linear import LinearProbe
from adapters.lora import LoRA
from adapters.names import build, get, names
from adapters.storage import load, save

__all__ = [
    "EFFT2",
    "HTA",
    "Adapter",
    "AdapterError",
    "LinearProbe",
    "LoRA",
    "UnsupportedBackbone",
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
