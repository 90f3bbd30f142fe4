"""The output features of places, for methods that train one number per feature: names and widths.

A linear layer's parts have a vector each, so a fused qkv has three, of which some may be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.base import Context, Tensors
from adapters.sites import Linear, Sites


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


def part_name(site: Linear, part: str) -> str:
    """What a part's tensors are named after: `blocks.<i>.<part>`, or the path of a reduction."""
    return site.path if site.block < 0 else f"blocks.{site.block}.{part}"


def linear_outputs(sites: Sites) -> tuple[Output, ...]:
    """Those of the selected linear layers of the blocks."""
    return tuple(
        Output(
            site.path,
            tuple((part_name(site, p) if p in site.chosen else "", site.out) for p in site.parts),
        )
        for site in sites.linears
    )


def plain_outputs(sites: Sites) -> tuple[Output, ...]:
    """Those of the selected norms and of the patch embedding, named by their paths."""
    places = (*sites.norms, *((sites.patch,) if sites.patch else ()))
    return tuple(Output(place.path, ((place.path, place.width),)) for place in places)
