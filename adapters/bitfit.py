"""BitFit: only the biases train (Ben Zaken et al. 2022, arXiv 2106.10199, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Edit, Tensors
from adapters.errors import AdapterError
from adapters.knobs import knob
from adapters.outputs import Output, linear_outputs, plain_outputs
from adapters.sites import PARTS, Sites


@dataclass(frozen=True)
class BitFit(Adapter):
    """b′ = b + Δb at every bias: q, k, v, o, fc1, fc2, norms and patch embedding; Δb (features).

    A layer without a bias gets none; Swin's relative position biases are weights and stay frozen.
    With `sites`, a block's norm1 goes with any of q, k, v, o and its norm2 with fc1 or fc2; the
    patch embedding and the outer norms train only if nothing is deselected.
    Start: Δb = 0. Count: 11·L·D + 2·D (11 = qkv 3, proj 1, fc1 4, fc2 1, norms 2; 2 = patch
    embedding, final norm); ViT-B/16: 102,912.
    """

    name: ClassVar[str] = "bitfit"
    sites: tuple[str, ...] = knob(PARTS)
    layers: tuple[int, ...] | None = knob(None)

    def select(self, sites: Sites) -> Sites:
        """The chosen parts of the chosen blocks; an error if none of them has a bias."""
        chosen = sites.select(self.sites, self.layers)
        if not _biased(chosen):
            raise AdapterError(
                f"sites={self.sites} with layers={self.layers} have no bias in this backbone; "
                "choose others, or another adapter."
            )
        return chosen

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`<piece>.bias` = 0: `blocks.<i>.<part>` or the path of a norm or the patch embedding."""
        return {
            f"{name}.bias": torch.zeros(width)
            for output in _biased(sites)
            for name, width in output.chosen
        }

    def places(self, sites: Sites) -> tuple[str, ...]:
        """Every selected module that has a bias."""
        return tuple(output.path for output in _biased(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """y → y + Δb."""

        def shifted(output: Output) -> Edit:
            shift = output.vector(tensors, "bias", 0.0, context)

            def change(y: Tensor) -> Tensor:
                return y + shift

            return context.mapped(change)

        return {output.path: shifted(output) for output in _biased(sites)}


def _biased(sites: Sites) -> list[Output]:
    outputs = (*linear_outputs(sites), *plain_outputs(sites))
    return [output for output in outputs if f"{output.path}.bias" in sites.weights]
