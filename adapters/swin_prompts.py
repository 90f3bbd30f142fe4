"""VPT's prompts inside the windows of Swin (arXiv 2203.12119, appendix A; the authors' code).

Every window of a block attends to the block's prompts, which have neither position bias nor mask.
Where they go on to the next block, the windows' outputs for a prompt are averaged per image, the
FFN follows, and a patch merging reads each prompt four times over, as if it were four equal tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.base import Edit
from adapters.sites import TransformerBlock


def windowed(
    block: TransformerBlock, enter: Callable[[int], Tensor], leave: Callable[[Tensor], None] | None
) -> dict[str, Edit]:
    """The edits of a Swin block and of its attention; without `leave` the prompts end here."""
    going_in: list[Tensor] = []
    coming_out: list[Tensor] = []

    def whole(x: Tensor, base: Any, *arguments: Any, **named: Any) -> Tensor:
        prompts = enter(x.shape[0])
        going_in.append(base.norm1(prompts))
        y: Tensor = base(x, *arguments, **named)
        if leave is not None:
            prompts = prompts + base.drop_path1(coming_out.pop())
            leave(prompts + base.drop_path2(base.mlp(base.norm2(prompts))))
        return y

    def attention(x: Tensor, base: Any, mask: Tensor | None = None) -> Tensor:
        prompts = going_in.pop()
        y, rest = _attend(x, prompts, base, mask, leave is not None)
        if leave is not None:
            coming_out.append(rest)
        return y

    return {block.path: whole, block.attention: attention}


def merged(enter: Callable[[int], Tensor], leave: Callable[[Tensor], None] | None) -> Edit:
    """The edit of a patch merging through which prompts go."""

    def edit(x: Tensor, base: Any, *arguments: Any, **named: Any) -> Tensor:
        y: Tensor = base(x, *arguments, **named)
        assert leave is not None  # a stage has a block after its merging
        leave(base.reduction(base.norm(enter(x.shape[0]).repeat(1, 1, 4))))
        return y

    return edit


def _attend(
    x: Tensor, prompts: Tensor, base: Any, mask: Tensor | None, asking: bool
) -> tuple[Tensor, Tensor]:
    """Window attention of x (images·windows, N, C) with prompts (images, p, C) in every window.

    `asking`: the prompts have queries too. Returns the outputs of x, and of the prompts as means
    over the windows of an image (images, p or 0, C).
    """
    images, p, _ = prompts.shape
    rows = p if asking else 0
    windows = x.shape[0] // images  # of an image, whose windows lie together
    x = torch.cat((prompts.repeat_interleave(windows, dim=0), x), dim=1)
    q, k, v = base.qkv(x).unflatten(-1, (3, base.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (q[:, :, p - rows :] * base.scale) @ k.mT
    scores = scores + F.pad(base._get_rel_pos_bias(), (p, 0, rows, 0))
    if mask is not None:
        wider = F.pad(mask, (p, 0, rows, 0)).unsqueeze(1)
        scores = (scores.unflatten(0, (-1, mask.shape[0])) + wider).flatten(0, 1)
    y = base.attn_drop(base.softmax(scores)) @ v
    y = base.proj_drop(base.proj(y.transpose(1, 2).flatten(2)))
    return y[:, rows:], y[:, :rows].unflatten(0, (images, windows)).mean(1)
