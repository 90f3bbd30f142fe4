"""One trained number per output feature: SSF (arXiv 2210.08823) and BitFit (arXiv 2106.10199).

A linear layer's parts have a vector each, so a fused qkv has three, of which some may be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Edit, Parameter, Tensors
from adapters.errors import AdapterError
from adapters.hyperparameters import hyperparameter
from adapters.sites import PARTS, Linear, Sites

SCALED = ("scale", "shift")
"""Ends of the names of γ and β."""


@dataclass(frozen=True)
class SSF(Adapter):
    """y → γ ⊙ y + β after patch embedding, norm1, qkv, proj, norm2, fc1, fc2 and final norm.

    γ, β (features); q, k and v have their own, so that they can be selected. On Swin also after
    the patch embedding's and every patch merging's norm.
    Start: `init="theirs"` γ ~ N(1, 0.02), β ~ N(0, 0.02); `"zero"` γ = 1, β = 0, no change.
    With `sites`, a block's norm1 goes with any of q, k, v, o and its norm2 with fc1 or fc2; the
    patch embedding and the outer norms train only if nothing is deselected.
    Count: 2·(11·L·D + 2·D); ViT-B/16: 205,824. Folds into the operations. Weight decay acts on the
    head's weight alone, as in the authors' code, which exempts all vectors.
    """

    name: ClassVar[str] = "ssf"
    decays_head_bias: ClassVar[bool] = False
    init: str = hyperparameter("theirs", among=("theirs", "zero"), stacks=True)
    sites: tuple[str, ...] = hyperparameter(PARTS)
    layers: tuple[int, ...] | None = hyperparameter(None)

    def start(self, sites: Sites, generator: torch.Generator) -> dict[str, Parameter]:
        """`<piece>.scale`, `.shift`: `blocks.<i>.<part>` or a norm's or the patch conv's path."""
        tensors = start_scaled(every_output(sites), self.init, generator)
        return {name: Parameter(tensor, decay=False) for name, tensor in tensors.items()}

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return tuple(output.path for output in every_output(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        return {output.path: scaled(output, tensors, context) for output in every_output(sites)}


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
    sites: tuple[str, ...] = hyperparameter(PARTS)
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
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

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return tuple(output.path for output in _biased(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        def shifted(output: Output) -> Edit:
            shift = output.vector(tensors, "bias", 0.0, context)
            return context.mapped(lambda y: y + shift)

        return {output.path: shifted(output) for output in _biased(sites)}


@dataclass(frozen=True)
class Output:
    """What the module at `path` puts out: `pieces` (name, width) in order, no name: not chosen."""

    path: str
    pieces: tuple[tuple[str, int], ...]

    @property
    def chosen(self) -> tuple[tuple[str, int], ...]:
        """Name and width of every chosen piece."""
        return tuple(piece for piece in self.pieces if piece[0])

    def vector(self, tensors: Tensors, kind: str, fill: float, context: Context) -> Tensor:
        """`<name>.<kind>` of all pieces side by side, `fill` where not chosen: (K, 1, features)."""

        def piece(name: str, width: int) -> Tensor:
            if name:
                return tensors[f"{name}.{kind}"]
            shape = (context.trials, width)
            return torch.full(shape, fill, device=context.device, dtype=context.dtype)

        return torch.cat([piece(*one) for one in self.pieces], dim=-1).unsqueeze(1)


def every_output(sites: Sites) -> tuple[Output, ...]:
    """Those of the selected linear layers of the blocks, and `plain_outputs`."""

    def pieces(site: Linear) -> Iterator[tuple[str, int]]:
        for part in site.parts:
            yield site.tensor_name(part) if part in site.chosen else "", site.out

    linears = tuple(Output(site.path, tuple(pieces(site))) for site in sites.linears)
    return linears + plain_outputs(sites)


def plain_outputs(sites: Sites) -> tuple[Output, ...]:
    """Those of the selected norms and of the patch embedding, named by their paths."""
    modules = (*sites.norms, *((sites.patch,) if sites.patch else ()))
    return tuple(Output(module.path, ((module.path, module.width),)) for module in modules)


def start_scaled(outputs: Iterable[Output], init: str, generator: torch.Generator) -> Tensors:
    """γ and β of these outputs at their start."""
    tensors: Tensors = {}
    std = 0.0 if init == "zero" else 0.02
    for name, width in (piece for output in outputs for piece in output.chosen):
        for kind, mean in zip(SCALED, (1.0, 0.0), strict=True):
            tensors[f"{name}.{kind}"] = torch.empty(width).normal_(mean, std, generator=generator)
    return tensors


def scaled(output: Output, tensors: Tensors, context: Context) -> Edit:
    """The edit y → γ ⊙ y + β; γ = 1 and β = 0 in parts that are not chosen."""
    scale = output.vector(tensors, "scale", 1.0, context)
    shift = output.vector(tensors, "shift", 0.0, context)
    return context.mapped(lambda y: torch.addcmul(shift, y, scale))


def _biased(sites: Sites) -> list[Output]:
    return [output for output in every_output(sites) if f"{output.path}.bias" in sites.weights]
