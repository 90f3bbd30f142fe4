"""NOAH: prompts, LoRA and adapters together, each with its size and depth (arXiv 2206.04673)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapters.base import Adapter, Context, Edit, Tensors, uniform
from adapters.bottleneck import bottleneck, serial
from adapters.errors import AdapterError, UnsupportedBackbone
from adapters.fuse import LowRank
from adapters.hyperparameters import hyperparameter
from adapters.sites import Sites, TransformerBlock
from adapters.vpt import expanded, prompted

_SITES = (("mhsa", "ffn"), ("mhsa",), ("ffn",))


@dataclass(frozen=True)
class NOAH(Adapter):
    """VPT-deep, LoRA and a bottleneck adapter in one; section 3.2, and the authors' code.

    In a block: p = `prompts` tokens of its own after all others (taken out again at its end);
    qkv(x) + (x A) B on the fused layer, A (D, r), B (r, 3D), r = `rank`; y + up(GELU(down(y)))
    after the FFN, down (D, h), up (h, D) with biases, h = `hidden`. Each is there in the first
    `…_depth` blocks (None: in all), and nowhere with size 0. `sites` without `mhsa` leaves out the
    prompts and LoRA, without `ffn` the adapters.

    Start: prompts, down and up truncated normal with deviation 0.02, biases 0, A uniform ±1/√D,
    B = 0. Trials share a stack if they have the same parts, depths and number of prompts. Count:
    Σ over blocks of Dp + 4Dr + (2Dh + h + D if h > 0); on ViT-B/16 768p + 3,072r + (1,537h + 768),
    with p = r = h = 10 in 12 blocks: 654,456.
    """

    name: ClassVar[str] = "noah"
    prompts: int = hyperparameter(10, low=0)
    rank: int = hyperparameter(10, low=0, stacks=True)
    hidden: int = hyperparameter(10, low=0, stacks=True)
    prompts_depth: int | None = hyperparameter(None, low=0)
    rank_depth: int | None = hyperparameter(None, low=0)
    hidden_depth: int | None = hyperparameter(None, low=0)
    sites: tuple[str, ...] = hyperparameter(_SITES[0], among=_SITES)
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        if sites.family != "vit":
            raise UnsupportedBackbone(
                "NOAH's parts share one sequence of tokens of one width; looked for timm's "
                "VisionTransformer (ViT, DeiT), not Swin, whose windows and stages have neither. "
                "Supported there: vpt_deep, lora and adapter, each on its own."
            )
        for field in ("prompts_depth", "rank_depth", "hidden_depth"):
            depth = getattr(self, field)
            if depth is not None and depth > sites.depth:
                raise AdapterError(
                    f"NOAH.{field} is {depth}; this backbone has {sites.depth} blocks "
                    "(None: all of them)."
                )
        chosen = sites.select(self.sites, self.layers)
        if not any(self._blocks(chosen, part) for part in ("prompts", "rank", "hidden")):
            raise AdapterError(
                f"{self!r} changes nothing: give a part a size and a depth above 0 in a chosen "
                "block."
            )
        return chosen

    def family(self) -> tuple[tuple[str, Any], ...]:
        """A part that some trials lack cannot be padded: its output bias would train."""
        return (*super().family(), ("qkv", self.rank > 0), ("mlp", self.hidden > 0))

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.prompts`, `.qkv.A`, `.qkv.B`, and `.fc2.down` to `.fc2.up_bias`."""
        tensors: Tensors = {}
        layers = {site.path: site for site in sites.linears}
        for block in self._blocks(sites, "prompts"):
            prompts = _normal((self.prompts, block.width), generator)
            tensors[f"blocks.{block.index}.prompts"] = prompts
        for block in self._blocks(sites, "rank"):
            qkv, prefix = layers[f"{block.attention}.qkv"], f"blocks.{block.index}.qkv"
            a = uniform((qkv.inputs, self.rank), 1 / sqrt(qkv.inputs), generator)
            b = torch.zeros(self.rank, len(qkv.parts) * qkv.out)
            tensors |= {f"{prefix}.A": a, f"{prefix}.B": b}
        for block in self._blocks(sites, "hidden"):
            down = _normal((block.width, self.hidden), generator)
            up = _normal((self.hidden, block.width), generator)
            tensors |= bottleneck(f"blocks.{block.index}.fc2", down, up)
        return tensors

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return (
            *(block.path for block in self._blocks(sites, "prompts")),
            *(f"{block.path}.mlp" for block in self._blocks(sites, "hidden")),
            *(f"{block.attention}.qkv" for block in self._blocks(sites, "rank")),
        )

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        edits: dict[str, Edit] = {}
        for block in sites.blocks:
            prefix, qkv = f"blocks.{block.index}", f"{block.attention}.qkv"
            if f"{prefix}.prompts" in tensors:
                enter = partial(expanded, context, tensors[f"{prefix}.prompts"])
                edits |= prompted(sites, block, enter, None, at=None)
            if f"{prefix}.qkv.A" in tensors:
                low_rank = LowRank(tensors[f"{prefix}.qkv.A"], tensors[f"{prefix}.qkv.B"])
                edits[qkv] = context.added(low_rank)
            if f"{prefix}.fc2.down" in tensors:
                edits[f"{block.path}.mlp"] = serial(tensors, f"{prefix}.fc2", context)
        return edits

    def _blocks(self, sites: Sites, part: str) -> list[TransformerBlock]:
        """The chosen blocks that have a part: `prompts`, `rank` or `hidden`."""
        half = "ffn" if part == "hidden" else "mhsa"
        depth = getattr(self, f"{part}_depth")
        if half not in self.sites or not getattr(self, part):
            return []
        return [block for block in sites.blocks if depth is None or block.index < depth]


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)
