"""What the tests of BitFit, SSF, RLRR and ARC share: models, a dense reference, common checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from adapters import Adapter, attach, attached, merge
from adapters.backbones import find_sites
from adapters.base import Tensors
from adapters.sites import Sites
from tests.adapters.models import close, deit, perturbed, vit

Make = Callable[..., nn.Module]
LAYERS = {
    "q": ("attn.qkv", 0), "k": ("attn.qkv", 1), "v": ("attn.qkv", 2), "o": ("attn.proj", 0),
    "fc1": ("mlp.fc1", 0), "fc2": ("mlp.fc2", 0),
}  # fmt: skip
PARTS = tuple(LAYERS)


def swin(classes: int = 0, **options: Any) -> nn.Module:
    """The same tiny Swin every time: three stages of one, two and one blocks."""
    sizes: dict[str, Any] = {
        "embed_dim": 16,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 4),
        "drop_path_rate": 0.0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SwinTransformer(
            img_size=64, patch_size=4, window_size=4, num_classes=classes, **sizes | options
        )
        return perturbed(model)


every_model = pytest.mark.parametrize("make", [vit, deit, swin])


def pictures(make: Make, count: int) -> Tensor:
    """Images of the size that a model takes."""
    side = 64 if make is swin else 32
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def block_paths(model: nn.Module) -> list[str]:
    """The blocks in forward order, found without the code under test."""
    return [n for n, _ in model.named_modules() if re.fullmatch(r"(layers\.\d\.)?blocks\.\d", n)]


def layer_rows(model: nn.Module, block: int, part: str) -> tuple[str, slice]:
    """Path of the layer that a part of a block lies in and its rows there."""
    suffix, position = LAYERS[part]
    path = f"{block_paths(model)[block]}.{suffix}"
    rows = model.get_parameter(f"{path}.weight").shape[0] // (3 if suffix == "attn.qkv" else 1)
    return path, slice(position * rows, (position + 1) * rows)


def place(model: nn.Module, name: str) -> tuple[str, slice]:
    """Module and rows that the tensors called `name` belong to."""
    found = re.fullmatch(r"blocks\.(\d)\.(q|k|v|o|fc1|fc2)", name)
    return layer_rows(model, int(found[1]), found[2]) if found else (name, slice(None))


def grouped(tensors: Tensors) -> dict[str, Tensors]:
    """`<name>.<kind>` → {name: {kind: tensor}}."""
    groups: dict[str, Tensors] = {}
    for full, tensor in tensors.items():
        name, _, kind = full.rpartition(".")
        groups.setdefault(name, {})[kind] = tensor
    return groups


def shaken(make: Make, adapter: Adapter, classes: int | None = None) -> nn.Module:
    """An adapted model whose every trained tensor has moved from its start, in evaluation."""
    model = attach(make(), adapter, num_classes=classes, seed=1)
    generator = torch.Generator().manual_seed(5)
    for parameter in attached(model).parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def hook(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """Changes what the module at `path` puts out, features last (a convolution's too)."""

    def changed(module: nn.Module, inputs: object, y: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            return change(y.movedim(1, -1)).movedim(-1, 1)
        return change(y)

    model.get_submodule(path).register_forward_hook(changed)


def started(adapter: Adapter, model: nn.Module) -> Tensors:
    sites = find_sites(model)
    return adapter.start(adapter.select(sites), torch.Generator().manual_seed(0))


def vit_b16() -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model("vit_base_patch16_224", num_classes=0)
        return model


def count(adapter: Adapter, model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in started(adapter, model).values())


def sites_of(adapter: Adapter, model: nn.Module) -> Sites:
    return adapter.select(find_sites(model))


def check_merge(make: Make, adapter: Adapter, **options: Any) -> nn.Module:
    """The merged model is a plain timm model and equals the adapted one."""

    def made(classes: int = 0) -> nn.Module:
        return make(classes, **options)

    model, x = shaken(made, adapter, 5), pictures(make, 3)
    expected, unchanged = model(x), made(5)
    assert not close(model.forward_features(x), made().forward_features(x), 1e-2)  # type: ignore[operator]
    merged = merge(model)
    assert merged.state_dict().keys() == unchanged.state_dict().keys()
    assert [type(m) for m in merged.modules()] == [type(m) for m in unchanged.modules()]
    assert close(merged(x), expected)
    return merged


def same_distribution(x: Tensor, mean: float, std: float) -> bool:
    """Normal with this mean and deviation, as far as the two can tell."""
    error = 5 * std / x.numel() ** 0.5
    return bool(abs(x.mean().item() - mean) < error and abs(x.std().item() - std) < error)


def spans(x: Tensor, bound: float) -> bool:
    """Uniform on ±bound, as far as its extremes and deviation can tell."""
    largest, std = x.abs().max().item(), x.std().item()
    return bool(0.9 * bound < largest <= bound and abs(std - bound / 3**0.5) < 0.1 * bound)
