"""Where the sites are in timm's models: ViT and DeiT of standard blocks, Swin v1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from adapters.errors import UnsupportedBackbone
from adapters.sites import Conv, Linear, Norm, Sites, TransformerBlock

_LINEARS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attn.qkv", ("q", "k", "v")),
    ("attn.proj", ("o",)),
    ("mlp.fc1", ("fc1",)),
    ("mlp.fc2", ("fc2",)),
)
_NORMS = (("norm1", "mhsa", "attn.qkv"), ("norm2", "ffn", "mlp.fc1"))


@dataclass(frozen=True)
class _Layout:
    """What distinguishes the two families."""

    family: str
    blocks: tuple[TransformerBlock, ...]
    kinds: dict[str, type[nn.Module]]
    head: str
    tokens: int


def find_sites(model: nn.Module) -> Sites:
    """The sites of a timm ViT, DeiT or Swin; `UnsupportedBackbone` for anything else."""
    layout = _layout(model)
    linears, norms = [], []
    for block in layout.blocks:
        _check(model, layout, block)
        for suffix, parts in _LINEARS:
            linears.append(_linear(model, block, suffix, parts))
        for name, group, feeds in _NORMS:
            path = f"{block.path}.{name}"
            width = _width(model, path)
            norms.append(Norm(path, block.index, group, width, f"{block.path}.{feeds}"))
    outside, reductions = _outside(model, layout)
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
        reductions=reductions,
        head=layout.head,
        tokens=layout.tokens,
        patch_size=int(patch.kernel_size[0]),
        every_block=layout.blocks,
        weights={n: p for n, p in model.named_parameters() if not n.startswith("head.")},
    )


def _layout(model: nn.Module) -> _Layout:
    # timm takes seconds to import, and who has a model has paid them: names and hyper-parameters
    # of adapters can be had without.
    from timm.layers import Attention
    from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
    from timm.models.vision_transformer import Block as VitBlock
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is VisionTransformer:  # subclasses have other tokens, heads or passes
        width = model.embed_dim
        blocks = [TransformerBlock(f"blocks.{i}", i, 0, width) for i in range(len(model.blocks))]
        kinds: dict[str, type[nn.Module]] = {"": VitBlock, "attn": Attention}
        return _Layout("vit", tuple(blocks), kinds, "head", model.num_prefix_tokens)
    if type(model) is SwinTransformer:
        blocks = [
            TransformerBlock(f"layers.{s}.blocks.{b}", 0, s, int(block.dim))
            for s, stage in enumerate(model.layers)
            for b, block in enumerate(stage.blocks)  # type: ignore[arg-type]
        ]
        numbered = tuple(replace(block, index=index) for index, block in enumerate(blocks))
        kinds = {"": SwinTransformerBlock, "attn": WindowAttention}
        return _Layout("swin", numbered, kinds, "head.fc", 0)
    raise UnsupportedBackbone(
        f"{type(model).__name__} is not supported; looked for timm's VisionTransformer (ViT, and "
        "DeiT without a distillation head) and SwinTransformer."
    )


def _check(model: nn.Module, layout: _Layout, block: TransformerBlock) -> None:
    """`UnsupportedBackbone` unless the block and its halves are exactly timm's standard ones."""
    from timm.layers import Mlp

    kinds: dict[str, type[nn.Module]] = {**layout.kinds, "mlp": Mlp}
    for name, wanted in kinds.items():
        path = f"{block.path}.{name}".rstrip(".")
        found = model.get_submodule(path)
        if type(found) is not wanted:
            raise UnsupportedBackbone(
                f"{path} is a {type(found).__name__}; looked for timm's {wanted.__name__}."
            )


def _linear(
    model: nn.Module, block: TransformerBlock, suffix: str, parts: tuple[str, ...]
) -> Linear:
    path = f"{block.path}.{suffix}"
    layer = model.get_submodule(path)
    if type(layer) is not nn.Linear:
        raise UnsupportedBackbone(f"{path} is a {type(layer).__name__}; looked for nn.Linear.")
    out = layer.out_features // len(parts)
    return Linear(path, block.index, parts, parts, layer.in_features, out, block.stage)


def _outside(model: nn.Module, layout: _Layout) -> tuple[tuple[Norm, ...], tuple[Linear, ...]]:
    """The norms outside the blocks, in forward order, and Swin's reductions."""
    norms: list[Norm] = []
    reductions: list[Linear] = []
    paths = dict(_norm_paths(model, layout))
    for path, feeds in paths.items():
        norms.append(Norm(path, -1, "", _width(model, path), feeds))
        if feeds:
            layer = model.get_submodule(feeds)
            assert isinstance(layer, nn.Linear)
            part = ("reduction",)
            reductions.append(Linear(feeds, -1, part, part, layer.in_features, layer.out_features))
    return tuple(norms), tuple(reductions)


def _norm_paths(model: nn.Module, layout: _Layout) -> Iterator[tuple[str, str]]:
    """Path and what it feeds of every layer norm outside the blocks."""
    candidates = ["patch_embed.norm", "norm_pre"]
    if layout.family == "swin":
        stages = range(layout.blocks[-1].stage + 1)
        candidates += [f"layers.{stage}.downsample.norm" for stage in stages]
    for path in (*candidates, "norm", "fc_norm"):
        try:
            found = model.get_submodule(path)
        except AttributeError:  # this model has no such module
            continue
        if isinstance(found, nn.LayerNorm):
            merging = path.endswith("downsample.norm")
            yield path, path.replace("norm", "reduction") if merging else ""


def _width(model: nn.Module, path: str) -> int:
    norm = model.get_submodule(path)
    if not isinstance(norm, nn.LayerNorm):
        raise UnsupportedBackbone(f"{path} is a {type(norm).__name__}; looked for nn.LayerNorm.")
    return int(norm.normalized_shape[0])
