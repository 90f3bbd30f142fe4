"""SSF: scale and shift the features after every operation (arXiv 2210.08823, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Edit, Tensors
from adapters.knobs import knob
from adapters.outputs import Output, linear_outputs, plain_outputs
from adapters.sites import PARTS, Sites

_STD = 0.02


@dataclass(frozen=True)
class SSF(Adapter):
    """y → γ ⊙ y + β after patch embedding, norm1, qkv, proj, norm2, fc1, fc2 and final norm.

    γ, β (features); q, k and v have their own, so that they can be selected. On Swin also after
    the patch embedding's and every patch merging's norm.
    Start: `init="theirs"` γ ~ N(1, 0.02), β ~ N(0, 0.02); `"zero"` γ = 1, β = 0, no change.
    With `sites`, a block's norm1 goes with any of q, k, v, o and its norm2 with fc1 or fc2; the
    patch embedding and the outer norms train only if nothing is deselected.
    Count: 2·(11·L·D + 2·D); ViT-B/16: 205,824. Folds into the operations.
    """

    name: ClassVar[str] = "ssf"
    init: str = knob("theirs", among=("theirs", "zero"), stacks=True)
    sites: tuple[str, ...] = knob(PARTS)
    layers: tuple[int, ...] | None = knob(None)

    def select(self, sites: Sites) -> Sites:
        """The chosen parts of the chosen blocks."""
        return sites.select(self.sites, self.layers)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`<piece>.scale`, `.shift`: `blocks.<i>.<part>` or a norm's or the patch conv's path."""
        return start_scaled(_outputs(sites), self.init, generator)

    def places(self, sites: Sites) -> tuple[str, ...]:
        """Every selected linear layer and norm, and the patch embedding."""
        return tuple(output.path for output in _outputs(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """y → γ ⊙ y + β."""
        return {output.path: scaled(output, tensors, context) for output in _outputs(sites)}


def start_scaled(outputs: Iterable[Output], init: str, generator: torch.Generator) -> Tensors:
    """γ and β of these outputs at their start."""
    tensors: Tensors = {}
    std = 0.0 if init == "zero" else _STD
    for name, width in (piece for output in outputs for piece in output.chosen):
        for kind, mean in (("scale", 1.0), ("shift", 0.0)):
            value = torch.empty(width).normal_(mean, std, generator=generator)
            tensors[f"{name}.{kind}"] = value
    return tensors


def scaled(output: Output, tensors: Tensors, context: Context) -> Edit:
    """The edit y → γ ⊙ y + β; γ = 1 and β = 0 in parts that are not chosen."""
    scale = output.vector(tensors, "scale", 1.0, context)
    shift = output.vector(tensors, "shift", 0.0, context)

    def change(y: Tensor) -> Tensor:
        return torch.addcmul(shift, y, scale)

    return context.mapped(change)


def _outputs(sites: Sites) -> tuple[Output, ...]:
    return (*linear_outputs(sites), *plain_outputs(sites))
