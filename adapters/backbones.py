"""Where the sites are in timm's models: ViT and DeiT of standard blocks, Swin v1."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from adapters.errors import UnsupportedBackbone
from adapters.float8 import Float8Linear
from adapters.sites import Conv, Linear, Norm, Sites, TransformerBlock

_LINEARS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attn.qkv", ("q", "k", "v")),
    ("attn.proj", ("o",)),
    ("mlp.fc1", ("fc1",)),
    ("mlp.fc2", ("fc2",)),
)
_NORMS = (("norm1", "mhsa", "attn.qkv"), ("norm2", "ffn", "mlp.fc1"))


class _Layout(NamedTuple):
    """What distinguishes the two families."""

    family: str
    head: str
    tokens: int
    kinds: dict[str, type[nn.Module]]
    """Path within a block → the class that must be there."""
    blocks: tuple[TransformerBlock, ...]


def find_sites(model: nn.Module) -> Sites:
    """The sites of a timm ViT, DeiT or Swin; `UnsupportedBackbone` for anything else."""
    layout = _layout(model)
    linears: list[Linear] = []
    norms: list[Norm] = []
    for block in layout.blocks:
        for inside, kind in layout.kinds.items():
            _check(model, f"{block.path}{inside}", kind, f"timm's {kind.__name__}")
        for suffix, parts in _LINEARS:
            linears.append(_linear(model, f"{block.path}.{suffix}", parts, block))
        for name, group, feeds in _NORMS:
            path = f"{block.path}.{name}"
            norm = model.get_submodule(path)
            if not isinstance(norm, nn.LayerNorm):
                raise _unsupported(path, norm, "nn.LayerNorm")
            width = norm.normalized_shape[0]
            norms.append(Norm(path, block.index, group, width, f"{block.path}.{feeds}"))
    outside, reductions = _outside(model, layout.blocks[-1].stage + 1)
    patch = model.get_submodule("patch_embed.proj")
    assert isinstance(patch, nn.Conv2d)
    return Sites(
        family=layout.family,
        width=int(model.num_features),  # type: ignore[arg-type]
        depth=len(layout.blocks),
        linears=tuple(linears),
        norms=(*norms, *outside),
        blocks=layout.blocks,
        patch=Conv("patch_embed.proj", patch.out_channels),
        reductions=tuple(reductions),
        head=layout.head,
        tokens=layout.tokens,
        patch_size=int(patch.kernel_size[0]),
        every_block=layout.blocks,
        weights={n: p for n, p in model.named_parameters() if not n.startswith("head.")},
    )


def _layout(model: nn.Module) -> _Layout:
    # timm takes seconds to import, and who has a model has paid them: names and hyper-parameters
    # of adapters can be had without.
    from timm.layers import Attention, Mlp
    from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
    from timm.models.vision_transformer import Block as VitBlock
    from timm.models.vision_transformer import VisionTransformer

    kinds: dict[str, type[nn.Module]]
    if type(model) is VisionTransformer:  # subclasses have other tokens, heads or passes
        kinds = {"": VitBlock, ".attn": Attention, ".mlp": Mlp}
        found = [(f"blocks.{index}", 0, model.embed_dim) for index in range(len(model.blocks))]
        return _Layout("vit", "head", model.num_prefix_tokens, kinds, _numbered(found))
    if type(model) is SwinTransformer:
        kinds = {"": SwinTransformerBlock, ".attn": WindowAttention, ".mlp": Mlp}
        found = [
            (f"layers.{s}.blocks.{b}", s, int(block.dim))
            for s, stage in enumerate(model.layers)
            for b, block in enumerate(stage.blocks)  # type: ignore[arg-type]
        ]
        return _Layout("swin", "head.fc", 0, kinds, _numbered(found))
    raise UnsupportedBackbone(
        f"{type(model).__name__} is not supported; looked for timm's VisionTransformer (ViT, and "
        "DeiT without a distillation head) and SwinTransformer."
    )


def _numbered(found: list[tuple[str, int, int]]) -> tuple[TransformerBlock, ...]:
    """The blocks of (path, stage, width), numbered through."""
    return tuple(
        TransformerBlock(path, index, stage, width)
        for index, (path, stage, width) in enumerate(found)
    )


def _check(model: nn.Module, path: str, kind: type[nn.Module], shown: str) -> None:
    """`UnsupportedBackbone` unless the module is exactly of this class, not of a subclass."""
    found = model.get_submodule(path)
    if type(found) is not kind:
        raise _unsupported(path, found, shown)


def _unsupported(path: str, found: nn.Module, wanted: str) -> UnsupportedBackbone:
    return UnsupportedBackbone(f"{path} is a {type(found).__name__}; looked for {wanted}.")


def _linear(
    model: nn.Module, path: str, parts: tuple[str, ...], block: TransformerBlock | None = None
) -> Linear:
    layer = model.get_submodule(path)
    if not isinstance(layer, Float8Linear):
        _check(model, path, nn.Linear, "nn.Linear")
    assert isinstance(layer, nn.Linear)
    index, stage = (block.index, block.stage) if block else (-1, 0)
    out = layer.out_features // len(parts)
    return Linear(path, index, parts, parts, layer.in_features, out, stage)


def _outside(model: nn.Module, stages: int) -> tuple[list[Norm], list[Linear]]:
    """The layer norms outside the blocks, in forward order, and Swin's reductions."""
    norms, reductions, modules = list[Norm](), list[Linear](), dict(model.named_modules())
    mergings = [f"layers.{stage}.downsample.norm" for stage in range(stages)]
    for path in ("patch_embed.norm", "norm_pre", *mergings, "norm", "fc_norm"):
        norm = modules.get(path)
        if isinstance(norm, nn.LayerNorm):
            feeds = path.replace("norm", "reduction") if path in mergings else ""
            norms.append(Norm(path, -1, "", norm.normalized_shape[0], feeds))
            if feeds:
                reductions.append(_linear(model, feeds, ("reduction",)))
    return norms, reductions
