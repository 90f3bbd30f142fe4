"""NOAH: prompts, LoRA and adapters together, each with its sizes by block (arXiv 2206.04673)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapters.base import Adapter, Context, Edit, Parameter, Tensors, uniform
from adapters.bottleneck import bottleneck, serial
from adapters.errors import AdapterError, UnsupportedBackbone
from adapters.fuse import LowRank
from adapters.hyperparameters import hyperparameter
from adapters.sites import Sites, TransformerBlock
from adapters.vpt import expanded, prompted

_SITES = (("mhsa", "ffn"), ("mhsa",), ("ffn",))
_PARTS = ("prompts", "rank", "hidden")
_SUPERNET_PROMPTS = 100
"""Of the authors' VTAB-1k supernet, of whose prompts a subnet's are a slice, started alike."""


@dataclass(frozen=True)
class NOAH(Adapter):
    """VPT-deep, LoRA and a bottleneck adapter in one; section 3.2, and the authors' code.

    In a block: p = `prompts` tokens after all others; qkv(x) + (x A) B on the fused layer, A
    (D, r), B (r, 3D), r = `rank`; y + up(f(down(y))), y the FFN's output after its stochastic
    depth, f(x) = x·σ(1.702x) (QuickGELU), down (D, h), up (h, D) with biases, h = `hidden`. A size
    is one number for every block, or a tuple with one for each; from `…_depth` on it is 0.
    A block's prompts replace the p′ last tokens, p′ the size in the chosen block before; a block of
    size 0 keeps those that are there. `dropout` acts on LoRA's input, on the prompts and on f.
    `sites` without `mhsa` leaves out the prompts and LoRA, without `ffn` the adapters.

    Start: prompts uniform ±√(6/((s+1)·D)), s = 100, the size in their supernet (or p if larger);
    A, B, down, up and the head's weight truncated normal with deviation 0.02, so ΔW ≠ 0; biases 0,
    which do not decay. Trials share a stack if they have the same parts, depths and prompts. Count:
    Σ over blocks of Dp + 4Dr + (2Dh + h + D if h > 0); on ViT-B/16 768p + 3,072r + (1,537h + 768),
    with p = r = h = 10 in 12 blocks: 654,456.
    """

    name: ClassVar[str] = "noah"
    head_start: ClassVar[str] = "normal"
    decays_head_bias: ClassVar[bool] = False
    prompts: int | tuple[int, ...] = hyperparameter(10, low=0)
    rank: int | tuple[int, ...] = hyperparameter(10, low=0, stacks=True)
    hidden: int | tuple[int, ...] = hyperparameter(10, low=0, stacks=True)
    prompts_depth: int | None = hyperparameter(None, low=0)
    rank_depth: int | None = hyperparameter(None, low=0)
    hidden_depth: int | None = hyperparameter(None, low=0)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(_SITES[0], among=_SITES)
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        if sites.family != "vit":
            raise UnsupportedBackbone(
                "NOAH's parts share one sequence of tokens of one width; looked for timm's "
                "VisionTransformer (ViT, DeiT), not Swin, whose windows and stages have neither. "
                "Supported there: vpt_deep, lora and adapter, each on its own."
            )
        for part in _PARTS:
            depth, sizes = getattr(self, f"{part}_depth"), getattr(self, part)
            if depth is not None and depth > sites.depth:
                raise AdapterError(
                    f"NOAH.{part}_depth is {depth}; this backbone has {sites.depth} blocks "
                    "(None: all of them)."
                )
            if isinstance(sizes, tuple) and len(sizes) != sites.depth:
                raise AdapterError(
                    f"NOAH.{part} has {len(sizes)} sizes; this backbone has {sites.depth} blocks "
                    "(one number: the same in all of them)."
                )
        chosen = sites.select(self.sites, self.layers)
        if not any(self._sizes(chosen, part) for part in _PARTS):
            raise AdapterError(
                f"{self!r} changes nothing: give a part a size and a depth above 0 in a chosen "
                "block."
            )
        return chosen

    def family(self) -> tuple[tuple[str, Any], ...]:
        """A part that some trials lack cannot be padded: its output bias would train."""

        def present(sizes: int | tuple[int, ...]) -> Any:
            return sizes > 0 if isinstance(sizes, int) else tuple(size > 0 for size in sizes)

        return (*super().family(), ("qkv", present(self.rank)), ("mlp", present(self.hidden)))

    def start(self, sites: Sites, generator: torch.Generator) -> dict[str, Parameter]:
        """`blocks.<i>.prompts`, `.qkv.A`, `.qkv.B`, and `.fc2.down` to `.fc2.up_bias`."""
        tensors: Tensors = {}
        layers = {site.path: site for site in sites.linears}
        for block, size in self._sizes(sites, "prompts"):
            bound = sqrt(6 / ((max(size, _SUPERNET_PROMPTS) + 1) * block.width))
            prompts = uniform((size, block.width), bound, generator)
            tensors[f"blocks.{block.index}.prompts"] = prompts
        for block, size in self._sizes(sites, "rank"):
            qkv, prefix = layers[f"{block.attention}.qkv"], f"blocks.{block.index}.qkv"
            tensors[f"{prefix}.A"] = _normal((qkv.inputs, size), generator)
            tensors[f"{prefix}.B"] = _normal((size, len(qkv.parts) * qkv.out), generator)
        for block, size in self._sizes(sites, "hidden"):
            down = _normal((block.width, size), generator)
            up = _normal((size, block.width), generator)
            tensors |= bottleneck(f"blocks.{block.index}.fc2", down, up)
        return {n: Parameter(t, decay=not n.endswith("_bias")) for n, t in tensors.items()}

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return (
            *(block.path for block in self._prompted(sites)),
            *(block.drop_path(2) for block, _ in self._sizes(sites, "hidden")),
            *(f"{block.attention}.qkv" for block, _ in self._sizes(sites, "rank")),
        )

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        edits: dict[str, Edit] = {}
        waiting: list[Tensor] = []  # the prompts, outside the model between two blocks
        replaced = 0
        for block in self._prompted(sites):
            prompts = tensors.get(f"blocks.{block.index}.prompts")
            enter = partial(_entering, context, waiting, prompts, replaced)
            edits |= prompted(sites, block, enter, waiting.append, at=None)
            replaced = 0 if prompts is None else prompts.shape[1]
        for block in sites.blocks:
            prefix = f"blocks.{block.index}"
            if f"{prefix}.qkv.A" in tensors:
                low_rank = LowRank(tensors[f"{prefix}.qkv.A"], tensors[f"{prefix}.qkv.B"])
                edits[f"{block.attention}.qkv"] = context.added(context.drop_input(low_rank))
            if f"{prefix}.fc2.down" in tensors:
                after = serial(tensors, f"{prefix}.fc2", context, _quick_gelu)
                edits[block.drop_path(2)] = after
        return edits

    def _sizes(self, sites: Sites, part: str) -> list[tuple[TransformerBlock, int]]:
        """The chosen blocks that have a part (`prompts`, `rank` or `hidden`), with its size."""
        sizes, depth = getattr(self, part), getattr(self, f"{part}_depth")
        if ("ffn" if part == "hidden" else "mhsa") not in self.sites:
            return []
        each = sizes if isinstance(sizes, tuple) else (sizes,) * sites.depth
        found = [(block, each[block.index]) for block in sites.blocks]
        return [(b, size) for b, size in found if size and (depth is None or b.index < depth)]

    def _prompted(self, sites: Sites) -> list[TransformerBlock]:
        """The chosen blocks that see prompts: from the first that has its own on."""
        first = next((block.index for block, _ in self._sizes(sites, "prompts")), sites.depth)
        return [block for block in sites.blocks if block.index >= first]


def _entering(
    context: Context, waiting: list[Tensor], own: Tensor | None, replaced: int, images: int
) -> Tensor:
    """The prompts of a block (K·B, p, D): those that wait, the last ones replaced by its own."""
    before = waiting.pop() if waiting else None
    if own is None:
        assert before is not None  # the first of the prompted blocks has its own
        return before
    new = expanded(context, own, images)
    return new if before is None else torch.cat((before[:, : before.shape[1] - replaced], new), 1)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)
