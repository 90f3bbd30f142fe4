"""The ablation of the EFFT paper: which blocks, and which half of them, need adapting.

Layers 0-2, 2-4, 5-8, 9-11 × {MHSA, FFN}, then MHSA only and FFN only (arXiv 2311.06749). We add
both halves together, so that the adapter as it is by default has its row: 5 · 3 configurations.
"""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search_spaces.selections import to_choice

_DEPTH = 12
_GROUPS = ((0, 2), (2, 4), (5, 8), (9, 11))  # of ViT-B's 12 blocks; the overlap is the paper's


def space(depth: int) -> dict[str, BaseDistribution]:
    """Every layer group × every half, for a backbone of `depth` blocks.

    Of other depths than 12 a group has the blocks that overlap its share of the depth (24 blocks:
    0-5, 4-9, 10-17, 18-23); groups that coincide in a shallow one are there once.
    """
    texts = [to_choice("layers", list(_scaled(*group, depth))) for group in _GROUPS]
    return {
        "layers": CategoricalDistribution((None, *dict.fromkeys(texts))),
        "sites": CategoricalDistribution(("mhsa", "ffn", "mhsa+ffn")),
    }


def _scaled(first: int, last: int, depth: int) -> range:
    return range(first * depth // _DEPTH, -(-(last + 1) * depth // _DEPTH))
