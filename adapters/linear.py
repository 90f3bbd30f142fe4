"""Linear probing: only the head trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from adapters.base import Adapter, Tensors
from adapters.sites import Sites


@dataclass(frozen=True)
class LinearProbe(Adapter):
    """The head on frozen features, starting at 0; no tensors of its own: count 0."""

    name: ClassVar[str] = "linear"
    zero_head: ClassVar[bool] = True

    def select(self, sites: Sites) -> Sites:
        """None of them."""
        return sites.nothing()

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """No tensors."""
        return {}
