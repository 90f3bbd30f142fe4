"""A forward pass in two parts, so that what no adapter changes need be computed only once.

    finish(model, begin(model, images, blocks), blocks) == model(images)

`blocks` are ascending numbers: of those whose input an adapter only reads, and last the one (0 …
depth) at which `begin` ends and `finish` goes on. On an adapted model `finish` has to be prepared
by hand (`Stack.prepare`), since it does not pass the patch embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from adapters.base import Kind
from adapters.sites import Sites
from adapters.stack import Member

_AFTER = ("norm", "fc_norm", "head")
"""Modules that come after the last block."""


def begin(model: Any, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Images (N, 3, H, W) → what each block is given: (N, tokens, D), Swin's (N, H, W, D)."""
    x = model.patch_embed(images)
    if not _is_swin(model):
        x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
    found = []
    for first, end in pairwise((0, *blocks)):
        for module in _between(model, first, end):
            x = module(x)
        found.append(x)
    return found


def finish(model: Any, inputs: Sequence[Tensor], blocks: Sequence[int]) -> Tensor:
    """What `begin` gives → the model's output (N, classes), or features without a head."""
    *read, x = inputs
    for index, given in zip(blocks, read, strict=False):
        model.blocks[index].read(given)  # only adapters of ViTs read
    for module in _between(model, blocks[-1], None):
        x = module(x)
    return model.forward_head(model.norm(x))  # type: ignore[no-any-return]


def first_changed_block(member: Member, sites: Sites) -> int | None:
    """The first block that a trial's adapter changes, in any way but reading its input.

    depth: what comes after the blocks is the first; depth + 1: nothing but the head is changed;
    None: something before the first block is.
    """
    adapter = member.adapter
    chosen = adapter.select(sites)
    read = {sites.every_block[index].path for index in adapter.reads(chosen)}
    modules = [path for path in adapter.target_modules(chosen) if path not in read]
    weights = adapter.weights(member.of_kind(Kind.TRAINED))
    blocks = [_block_of(path, sites) for path in (*modules, *weights)]
    if any(block is None for block in blocks):
        return None
    return min([block for block in blocks if block is not None], default=sites.depth + 1)


def _block_of(path: str, sites: Sites) -> int | None:
    for block in sites.every_block:
        if path == block.path or path.startswith(f"{block.path}."):
            return block.index
    return sites.depth if path.split(".")[0] in _AFTER else None


def _between(model: Any, first: int, end: int | None) -> Iterator[nn.Module]:
    """The blocks from `first` to before `end`, with Swin's patch mergings on the way.

    A merging belongs to the block that follows it: it runs with `first`, and not before `end`.
    """
    if not _is_swin(model):
        yield from model.blocks[first:end]
        return
    index = 0
    for stage in model.layers:
        for position, block in enumerate(stage.blocks):
            if first <= index and (end is None or index < end):
                if position == 0:
                    yield stage.downsample
                yield block
            index += 1


def _is_swin(model: nn.Module) -> bool:
    return hasattr(model, "layers")
