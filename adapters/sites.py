"""Where the adaptable layers of a backbone are: q k v o fc1 fc2 of every block.

Supported today: every timm model built on `vision_transformer.Block` with the standard attention
and MLP (ViT and DeiT of any size). Anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from adapters.errors import AdapterError, UnsupportedBackbone

PARTS: tuple[str, ...] = ("q", "k", "v", "o", "fc1", "fc2")
MHSA: tuple[str, ...] = ("q", "k", "v", "o")
FFN: tuple[str, ...] = ("fc1", "fc2")
SELECTORS: dict[str, tuple[str, ...]] = {
    "mhsa": MHSA,
    "ffn": FFN,
    **{part: (part,) for part in PARTS},
}
_MODULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attn.qkv", ("q", "k", "v")),
    ("attn.proj", ("o",)),
    ("mlp.fc1", ("fc1",)),
    ("mlp.fc2", ("fc2",)),
)


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


@dataclass(frozen=True)
class Sites:
    """The linear layers that a selection of blocks and parts leaves, in forward order."""

    width: int
    depth: int
    linears: tuple[Linear, ...]

    def select(self, parts: Sequence[str], layers: Sequence[int] | None = None) -> Sites:
        """Keeps the named parts (`q k v o fc1 fc2`, or `mhsa`, `ffn`) of the blocks in `layers`.

        Raises `AdapterError` for a name or block that does not exist, or if nothing is left.
        """
        wanted = {part for name in parts for part in _selector(name)}
        blocks = range(self.depth) if layers is None else _blocks(layers, self.depth)
        kept = tuple(
            Linear(
                s.path, s.block, s.parts, tuple(p for p in s.chosen if p in wanted), s.inputs, s.out
            )
            for s in self.linears
            if s.block in blocks and wanted.intersection(s.chosen)
        )
        if not kept:
            raise AdapterError(
                f"sites={tuple(parts)} with layers={layers} matches nothing in this backbone; "
                f"sites are {', '.join(SELECTORS)}, layers are 0…{self.depth - 1}."
            )
        return Sites(self.width, self.depth, kept)

    def slices(self) -> list[tuple[int, str]]:
        """Every chosen (block, part), in forward order."""
        return [(site.block, part) for site in self.linears for part in site.chosen]


def find_sites(model: nn.Module) -> Sites:
    """The sites of a timm ViT or DeiT; `UnsupportedBackbone` for anything else."""
    # timm takes seconds to import, and who has a model has paid them: names and hyper-parameters
    # of adapters can be had without.
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is not VisionTransformer:  # subclasses have other tokens, heads or passes
        raise UnsupportedBackbone(
            f"{type(model).__name__} is not supported; looked for timm's VisionTransformer (ViT, "
            "and DeiT without a distillation head)."
        )
    linears = []
    for index, block in enumerate(model.blocks):
        for suffix, parts in _MODULES:
            layer = _linear(index, block, suffix)
            linears.append(
                Linear(
                    path=f"blocks.{index}.{suffix}",
                    block=index,
                    parts=parts,
                    chosen=parts,
                    inputs=layer.in_features,
                    out=layer.out_features // len(parts),
                )
            )
    return Sites(model.embed_dim, len(model.blocks), tuple(linears))


def _linear(index: int, block: nn.Module, suffix: str) -> nn.Linear:
    """The linear layer at `suffix` of a block, after checking that the block is a known one."""
    from timm.layers import Attention, Mlp
    from timm.models.vision_transformer import Block

    room, _, _ = suffix.partition(".")
    for place, wanted in (("", Block), (room, {"attn": Attention, "mlp": Mlp}[room])):
        found = block.get_submodule(place)
        if type(found) is not wanted:
            raise UnsupportedBackbone(
                f"{f'blocks.{index}.{place}'.rstrip('.')} is a {type(found).__name__}; looked for "
                f"timm's {wanted.__name__}."
            )
    layer = block.get_submodule(suffix)
    if type(layer) is not nn.Linear:
        raise UnsupportedBackbone(
            f"blocks.{index}.{suffix} is a {type(layer).__name__}; looked for nn.Linear."
        )
    return layer


def _selector(name: str) -> tuple[str, ...]:
    if name not in SELECTORS:
        raise AdapterError(f"unknown site '{name}'; sites are {', '.join(SELECTORS)}.")
    return SELECTORS[name]


def _blocks(layers: Sequence[int], depth: int) -> frozenset[int]:
    bad = [layer for layer in layers if not 0 <= layer < depth]
    if bad:
        raise AdapterError(f"layers {bad} do not exist; this backbone has blocks 0…{depth - 1}.")
    return frozenset(layers)
