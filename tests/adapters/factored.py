"""Checks for methods that add ΔW to linear layers: against ΔW written out, alone and in company."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from adapters import Adapter, attach, attached, merge
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.sites import Sites
from tests.adapters.models import close, perturbed, randomise, vit

Make = Callable[[], nn.Module]
PARTS = ("q", "k", "v", "o", "fc1", "fc2")
_PLACES = {
    "q": ("attn.qkv", 0), "k": ("attn.qkv", 1), "v": ("attn.qkv", 2), "o": ("attn.proj", 0),
    "fc1": ("mlp.fc1", 0), "fc2": ("mlp.fc2", 0),
}  # fmt: skip


def swin() -> SwinTransformer:
    """The same tiny Swin every time: stages of 1, 2 and 1 blocks, widths 16, 32 and 64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes: dict[str, Any] = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 16}
        depths: dict[str, Any] = {
            "depths": (1, 2, 1),
            "num_heads": (1, 2, 4),
            "drop_path_rate": 0.0,
        }
        return perturbed(SwinTransformer(**sizes, **depths, num_classes=0))


def vit_b16() -> Sites:
    """The sites of ViT-B/16, without its weights."""
    with torch.device("meta"):
        return find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))


def started(adapter: Adapter, sites: Sites) -> Tensors:
    return adapter.start(adapter.select(sites), torch.Generator().manual_seed(0))


def inputs(make: Make, count: int) -> Tensor:
    """(count, 3, side, side), of the side that the model takes."""
    side = 32 if make is vit else 64
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def groups(make: Make) -> list[tuple[str, int, int, tuple[int, ...]]]:
    """Per stage: prefix of tensor names, width ratio, width, blocks."""
    if make is vit:
        return [("", 1, 32, (0, 1, 2))]
    return [
        ("stages.0.", 1, 16, (0,)), ("stages.1.", 2, 32, (1, 2)), ("stages.2.", 4, 64, (3,)),
    ]  # fmt: skip


def weight(model: nn.Module, block: int, part: str) -> Tensor:
    """The layer's W (in, out) of `y = x W + b`, to read or to change."""
    place, position = _PLACES[part]
    kinds = ("Block", "SwinTransformerBlock")
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    rows = blocks[block].get_submodule(place).get_parameter("weight").detach()
    return rows.chunk(3)[position].T if place == "attn.qkv" else rows.T


def check_dense(
    make: Make, adapter: Adapter, dense: Callable[[Tensors], Mapping[tuple[int, str], Tensor]]
) -> None:
    """The adapted forward is that of a plain model with ΔW added; so are the merged weights."""
    model = attach(make(), adapter)
    randomise(model)
    for parameter in attached(model).parameters():
        parameter.data *= 0.5  # with random factors at 0.3 the tiny Swin is ill-conditioned
    changes = dense(attached(model).tensors_of(0))
    expected, plain = model(inputs(make, 3)), make()
    merged = merge(copy.deepcopy(model))
    for block in range(find_sites(plain).depth):
        for part in PARTS:
            difference = weight(merged, block, part) - weight(plain, block, part)
            if (block, part) in changes:
                assert changes[block, part].abs().max() > 1e-3
                assert close(difference, changes[block, part]), (block, part)
            else:
                assert not difference.any(), (block, part)
    for (block, part), change in changes.items():
        weight(plain, block, part).add_(change)
    assert close(plain(inputs(make, 3)), expected)
    assert close(merged(inputs(make, 3)), expected)


def spans(tensor: Tensor, bound: float) -> bool:
    """Uniform on ±bound, as far as its values can tell."""
    largest = tensor.abs().max().item()
    return 0.9 * bound < largest <= bound and abs(tensor.mean().item()) < 0.2 * bound
