"""The sites of a backbone: the modules that an adapter can change, and selections of them.

Found by `adapters.backbones` in timm's ViT, DeiT and Swin. Blocks are numbered from 0 through the
whole network; Swin's have stages, whose width doubles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from adapters.errors import AdapterError

MHSA: tuple[str, ...] = ("q", "k", "v", "o")
FFN: tuple[str, ...] = ("fc1", "fc2")
PARTS = MHSA + FFN
GROUPS = {"mhsa": MHSA, "ffn": FFN}
SELECTORS = {**GROUPS, **{part: (part,) for part in PARTS}}


@dataclass(frozen=True)
class Linear:
    """One frozen linear layer and which of its output parts an adapter changes.

    `parts` are in output order; a fused qkv has three parts of `out` columns each, of which
    `chosen` are adapted. `inputs` and `out` are widths in features.
    """

    path: str
    block: int
    parts: tuple[str, ...]
    chosen: tuple[str, ...]
    inputs: int
    out: int
    stage: int = 0

    def tensor_name(self, part: str) -> str:
        """What a part's tensors are named after: `blocks.<i>.<part>`; outside blocks the path."""
        return self.path if self.block < 0 else f"blocks.{self.block}.{part}"


@dataclass(frozen=True)
class Norm:
    """A layer norm: `group` says which half of its block it belongs to (`mhsa`, `ffn`), or that it
    lies outside the blocks (empty). `feeds` is the path of the linear layer that reads it, if any.
    """

    path: str
    block: int
    group: str
    width: int
    feeds: str = ""


@dataclass(frozen=True)
class TransformerBlock:
    """A transformer block: `width` of its tokens, paths of what lies in it."""

    path: str
    index: int
    stage: int
    width: int

    @property
    def attention(self) -> str:
        """Path of the self-attention."""
        return f"{self.path}.attn"

    def drop_path(self, half: int) -> str:
        """Path of the stochastic depth after MHSA (1) or FFN (2)."""
        return f"{self.path}.drop_path{half}"


@dataclass(frozen=True)
class Conv:
    """The patch embedding's convolution with its output channels."""

    path: str
    width: int


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks of one width; `ratio` is its width over the first stage's."""

    index: int
    width: int
    ratio: int


@dataclass(frozen=True)
class Sites:
    """The modules that a selection of blocks and parts leaves, in forward order.

    `family` is `vit` or `swin`. `width` and `depth` are the features' and the number of all blocks.
    `patch`, the norms outside the blocks and `reductions` (Swin's patch merging) are there while
    nothing was deselected. `weights` are the backbone's own parameters by name, without its head.
    """

    family: str
    width: int
    depth: int
    linears: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    blocks: tuple[TransformerBlock, ...]
    patch: Conv | None
    reductions: tuple[Linear, ...]
    head: str
    """Path of the classification layer."""
    tokens: int
    """Class and register tokens before those of the patches."""
    patch_size: int
    every_block: tuple[TransformerBlock, ...]
    """All blocks, whatever was selected."""
    weights: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def select(self, parts: Sequence[str], layers: Sequence[int] | None = None) -> Sites:
        """Keeps the named parts (`q k v o fc1 fc2`, or `mhsa`, `ffn`) of the blocks in `layers`.

        Raises `AdapterError` for a name or block that does not exist, or if nothing is left.
        """
        wanted = {part for name in parts for part in _selector(name)}
        blocks = range(self.depth) if layers is None else _blocks(layers, self.depth)
        kept = tuple(
            replace(s, chosen=tuple(part for part in s.chosen if part in wanted))
            for s in self.linears
            if s.block in blocks and wanted.intersection(s.chosen)
        )
        if not kept:
            raise AdapterError(
                f"sites={tuple(parts)} with layers={layers} matches nothing in this backbone; "
                f"sites are {', '.join(SELECTORS)}, layers are 0…{self.depth - 1}."
            )
        groups = {name for name, own in GROUPS.items() if wanted.intersection(own)}
        whole = layers is None and wanted == set(PARTS)
        norms = (
            n for n in self.norms if (n.block in blocks and n.group in groups if n.group else whole)
        )
        return replace(
            self,
            linears=kept,
            norms=tuple(norms),
            blocks=tuple(block for block in self.blocks if block.index in blocks),
            patch=self.patch if whole else None,
            reductions=self.reductions if whole else (),
        )

    def nothing(self) -> Sites:
        """No module at all."""
        return replace(self, linears=(), norms=(), blocks=(), patch=None, reductions=())

    def slices(self) -> list[tuple[int, str]]:
        """Every chosen (block, part), in forward order."""
        return [(site.block, part) for site in self.linears for part in site.chosen]

    def by_stage(self) -> Iterator[tuple[str, Stage, Sites]]:
        """Prefix of tensor names, stage and its sites, for every stage that has a selected block.

        A ViT is one stage without a prefix.
        """
        for index in dict.fromkeys(block.stage for block in self.blocks):
            blocks = tuple(block for block in self.blocks if block.stage == index)
            own, width = {block.index for block in blocks}, blocks[0].width
            yield (
                "" if self.family == "vit" else f"stages.{index}.",
                Stage(index, width, width // self.every_block[0].width),
                replace(
                    self,
                    linears=tuple(site for site in self.linears if site.stage == index),
                    blocks=blocks,
                    norms=tuple(norm for norm in self.norms if norm.block in own),
                ),
            )


def _selector(name: str) -> tuple[str, ...]:
    if name not in SELECTORS:
        raise AdapterError(f"unknown site '{name}'; sites are {', '.join(SELECTORS)}.")
    return SELECTORS[name]


def _blocks(layers: Sequence[int], depth: int) -> frozenset[int]:
    bad = [layer for layer in layers if not 0 <= layer < depth]
    if bad:
        raise AdapterError(f"layers {bad} do not exist; this backbone has blocks 0…{depth - 1}.")
    return frozenset(layers)
