"""What an adapter does, written out densely: the layers of a plain model, read and changed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from adapters import Adapter, attach, attached, merge
from adapters.base import Tensors
from tests.adapters.models import Make, close, images, moved, randomise, vit

LAYERS = {
    "q": ("attn.qkv", 0), "k": ("attn.qkv", 1), "v": ("attn.qkv", 2), "o": ("attn.proj", 0),
    "fc1": ("mlp.fc1", 0), "fc2": ("mlp.fc2", 0),
}  # fmt: skip
PARTS = tuple(LAYERS)


def stages(make: Make) -> list[tuple[str, int, int, tuple[int, ...]]]:
    """Per stage of the tiny models: prefix of tensor names, width ratio, width, blocks."""
    if make is vit:
        return [("", 1, 32, (0, 1, 2))]
    return [
        ("stages.0.", 1, 16, (0, 1)), ("stages.1.", 2, 32, (2,)), ("stages.2.", 4, 64, (3,)),
    ]  # fmt: skip


def chosen(adapter: Adapter, blocks: tuple[int, ...]) -> tuple[list[int], list[str]]:
    """The selected blocks of a stage and the selected parts."""
    groups = {"mhsa": PARTS[:4], "ffn": PARTS[4:]}
    sites, layers = (getattr(adapter, name) for name in ("sites", "layers"))
    wanted = {part for name in sites for part in groups.get(name, (name,))}
    return [b for b in blocks if layers is None or b in layers], [p for p in PARTS if p in wanted]


def block_paths(model: nn.Module) -> list[str]:
    """The blocks in forward order, found without the code under test."""
    return [n for n, _ in model.named_modules() if re.fullmatch(r"(layers\.\d\.)?blocks\.\d", n)]


def layer_rows(model: nn.Module, block: int, part: str) -> tuple[str, slice]:
    """Path of the layer that a part of a block lies in and its rows there."""
    suffix, position = LAYERS[part]
    path = f"{block_paths(model)[block]}.{suffix}"
    rows = model.get_parameter(f"{path}.weight").shape[0] // (3 if suffix == "attn.qkv" else 1)
    return path, slice(position * rows, (position + 1) * rows)


def weight(model: nn.Module, block: int, part: str) -> Tensor:
    """The layer's W (in, out) of `y = x W + b`, to read or to change."""
    path, rows = layer_rows(model, block, part)
    return model.get_parameter(f"{path}.weight").detach()[rows].T


def by_module(model: nn.Module, tensors: Tensors) -> list[tuple[str, slice, Tensors]]:
    """Tensors `<name>.<kind>` by what they belong to: path of a module, rows of it, by kind."""
    found: dict[str, Tensors] = {}
    for full, tensor in tensors.items():
        name, _, kind = full.rpartition(".")
        found.setdefault(name, {})[kind] = tensor
    parts = {name: re.fullmatch(r"blocks\.(\d)\.(q|k|v|o|fc1|fc2)", name) for name in found}
    places = {
        name: layer_rows(model, int(part[1]), part[2]) if part else (name, slice(None))
        for name, part in parts.items()
    }
    return [(*places[name], kinds) for name, kinds in found.items()]


def change_output(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """Changes what the module at `path` puts out, features last (a convolution's too)."""

    def changed(module: nn.Module, inputs: object, y: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            return change(y.movedim(1, -1)).movedim(-1, 1)
        return change(y)

    model.get_submodule(path).register_forward_hook(changed)


def check_updates(
    make: Make, adapter: Adapter, dense: Callable[[Tensors], Mapping[tuple[int, str], Tensor]]
) -> None:
    """The adapted forward is that of a plain model with ΔW added; so are the merged weights.

    `dense` gives ΔW by block and part; where it has none nothing changes.
    """
    model, plain, x = attach(make(), adapter), make(), images(3)
    randomise(model, 0.15)  # with larger factors the tiny Swin is ill-conditioned
    changes = dense(attached(model).tensors_of(0))
    expected, merged = model(x), merge(copy.deepcopy(model))
    for block in range(len(block_paths(plain))):
        for part in PARTS:
            difference = weight(merged, block, part) - weight(plain, block, part)
            if (block, part) in changes:
                assert changes[block, part].abs().max() > 1e-3
                assert close(difference, changes[block, part]), (block, part)
            else:
                assert not difference.any(), (block, part)
    for (block, part), change in changes.items():
        weight(plain, block, part).add_(change)
    assert close(plain(x), expected)
    assert close(merged(x), expected)


def check_outputs(
    make: Make, adapter: Adapter, dense: Callable[[nn.Module, Tensors], None]
) -> None:
    """The adapted forward is that of a plain model to which `dense` has done the same."""
    model, plain = moved(make, adapter), make().requires_grad_(False)
    dense(plain, attached(model).tensors_of(0))
    assert close(model(images(2)), plain(images(2)))


def edited(model: nn.Module, path: str, x: Tensor, out: int) -> Tensor:
    """What the edit of the linear layer at `path` adds to its output."""
    edit, nothing = attached(model).edited[path].edit, nn.Linear(x.shape[-1], out, bias=False)
    assert edit is not None
    nn.init.zeros_(nothing.weight)
    return edit(x, nothing)
