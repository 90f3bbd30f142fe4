"""Linear probing: only the head trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from adapters.base import Adapter, Context, Tensors, Update
from adapters.sites import Sites


@dataclass(frozen=True)
class LinearProbe(Adapter):
    """The head on frozen features: no tensors of its own, count 0 (METHODS: `linear`)."""

    name: ClassVar[str] = "linear"

    def select(self, sites: Sites) -> Sites:
        """None of them."""
        return replace(sites, linears=())

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """No tensors."""
        return {}

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        """No updates."""
        return {}
