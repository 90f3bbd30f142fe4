"""VPT: trained prompt tokens among the image's (arXiv 2203.12119, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapters.base import Adapter, Context, Edit, Tensors, uniform
from adapters.hyperparameters import hyperparameter
from adapters.sites import Sites, TransformerBlock
from adapters.swin_prompts import merged, windowed

Enter = Callable[[int], Tensor]
"""Number of images K·B → the prompts (K·B, p, D) that enter a module."""
Leave = Callable[[Tensor], None]
"""Takes the prompts (K·B, p, D) that come out of a module."""


@dataclass(frozen=True)
class VPT(Adapter):
    """What the two forms share: p = `prompts` tokens without a position, after class and registers.

    A block gets them with its input and they are taken out of its output, so that pooling and
    everything between blocks sees the image's tokens only; nothing else would have read them.
    `dropout` drops elements of the prompts, per image. They act through self-attention, which
    `sites` therefore cannot leave out; it chooses nothing else. Start: uniform
    ±√(6/(3·patch² + D)), D the first block's width. Softmax gives mass to zeros too, so prompts
    cannot be padded: only trials of equal `prompts` share a stack. Weight decay spares the head's
    bias, as in the authors' code.
    Swin: inside every window, see `adapters.swin_prompts`.
    """

    decays_head_bias: ClassVar[bool] = False

    prompts: int = hyperparameter(10, low=1)
    dropout: float = hyperparameter(0.0, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"), among=(("mhsa", "ffn"), ("mhsa",)))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def _drawn(self, sites: Sites, block: TransformerBlock, generator: torch.Generator) -> Tensor:
        bound = sqrt(6 / (3 * sites.patch_size**2 + sites.every_block[0].width))
        return uniform((self.prompts, block.width), bound, generator)


@dataclass(frozen=True)
class VPTShallow(VPT):
    """[x, P] enters the first chosen block; what becomes of P there enters the next, and so on.

    Blocks that `layers` leaves out do not see the prompts, which go around them.
    Count: D·p (D the width of the first chosen block); ViT-B/16: 768·p. The rest is `VPT`'s.
    """

    name: ClassVar[str] = "vpt_shallow"

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`prompts` (p, D)."""
        return {"prompts": self._drawn(sites, sites.blocks[0], generator)}

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return (*_chain(sites), *_attentions(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """The prompts pass through every module and wait for the next one outside the model."""
        blocks = {block.path: block for block in sites.blocks}
        chain = _chain(sites)
        following = dict(pairwise(chain))
        waiting: dict[str, Tensor] = {}

        def enter(path: str, images: int) -> Tensor:
            at_start = path == chain[0]
            return expanded(context, tensors["prompts"], images) if at_start else waiting[path]

        def leave(path: str, prompts: Tensor) -> None:
            waiting[following[path]] = prompts

        edits: dict[str, Edit] = {}
        for path in chain:
            onward = partial(leave, path) if path in following else None
            ends = partial(enter, path), onward
            if path in blocks:
                edits |= prompted(sites, blocks[path], *ends, at=sites.tokens)
            else:
                edits[path] = merged(*ends)
        return edits


@dataclass(frozen=True)
class VPTDeep(VPT):
    """[x, P_l] enters every chosen block l; its output for P_l is dropped: P_{l+1} replaces it.

    Count: Σ over blocks D·p; ViT-B/16: 12·768·p = 9,216·p. The rest is `VPT`'s.
    """

    name: ClassVar[str] = "vpt_deep"

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.prompts` (p, D) of every chosen block."""
        return {
            f"blocks.{block.index}.prompts": self._drawn(sites, block, generator)
            for block in sites.blocks
        }

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        return (*(block.path for block in sites.blocks), *_attentions(sites))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        edits: dict[str, Edit] = {}
        for block in sites.blocks:
            enter = partial(expanded, context, tensors[f"blocks.{block.index}.prompts"])
            edits |= prompted(sites, block, enter, None, at=sites.tokens)
        return edits


def expanded(context: Context, prompts: Tensor, images: int) -> Tensor:
    """(K, p, D) → (K·B, p, D), one copy per image, with every trial's own dropout."""
    k, p, width = prompts.shape
    copies = prompts.unsqueeze(1).expand(k, images // k, p, width).flatten(1, 2)
    return context.drop_activation(copies).reshape(images, p, width)


def prompted(
    sites: Sites, block: TransformerBlock, enter: Enter, leave: Leave | None, *, at: int | None
) -> dict[str, Edit]:
    """The edits of one block; a ViT's prompts lie before token `at` (None: after all of them)."""
    if sites.family == "swin":
        return windowed(block, enter, leave)

    def edit(x: Tensor, base: Any, *arguments: Any, **named: Any) -> Tensor:
        prompts = enter(x.shape[0])
        first = x.shape[1] if at is None else at
        last = first + prompts.shape[1]
        longer = torch.cat((x[:, :first], prompts, x[:, first:]), dim=1)
        y: Tensor = base(longer, *arguments, **named)
        if leave is not None:
            leave(y[:, first:last])
        return torch.cat((y[:, :first], y[:, last:]), dim=1)

    return {block.path: edit}


def _attentions(sites: Sites) -> tuple[str, ...]:
    return tuple(b.attention for b in sites.blocks) if sites.family == "swin" else ()


def _chain(sites: Sites) -> list[str]:
    """The chosen blocks and the patch mergings of Swin between them, in forward order."""
    chain: list[str] = []
    stage = sites.blocks[0].stage
    for block in sites.blocks:
        chain += [f"layers.{later}.downsample" for later in range(stage + 1, block.stage + 1)]
        chain.append(block.path)
        stage = block.stage
    return chain
