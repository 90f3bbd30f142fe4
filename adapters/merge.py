"""merge: an adapter folded into the weights of its model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from adapters.attach import attached, detach
from adapters.base import Edit, Kind
from adapters.errors import AdapterError
from adapters.float8 import Float8Linear
from adapters.sites import Sites
from adapters.stack import Stack

M = TypeVar("M", bound=nn.Module)
_LINEAR_TO = 1e-3  # relative; what is not affine is off by a share of itself


class Affine(NamedTuple):
    """x → x matrix + shift: matrix (in, out), shift (out,). Of a linear layer: what is added."""

    matrix: Tensor
    shift: Tensor


@torch.no_grad()
def merge(model: M) -> M:
    """Fold the only trial's adapter and head into the weights: a plain timm model, no trace left.

    The merged forward equals the adapted one to 1e-5 relative in fp32. What an edit does is read
    off its own forward pass of the identity matrix, so there is no second implementation of any
    method. A changed norm goes into its own weights, or into the linear layer that reads it.

    Raises `AdapterError`, the model unchanged, for a stack of several trials (merge one:
    `adapters.load` it first), for an adapter whose edits are not affine and for float8 layers.
    """
    stack = attached(model)
    if len(stack.members) != 1:
        raise AdapterError(f"merge takes one trial, this stack has {len(stack.members)}.")
    if any(isinstance(module, Float8Linear) for module in model.modules()):
        raise AdapterError(
            "merge changes weights, of which float8 layers keep a quantised copy; attach the "
            "adapter to the model without them."
        )
    tensors = stack.tensors_of(0)
    found = _read(model, stack)
    adapter = stack.members[0].adapter
    weights = adapter.weights(stack.stacked(Kind.TRAINED))
    replaced = {name: tensor[0].clone() for name, tensor in weights.items()}
    sites = stack.backbone_sites
    detach(model)
    for name, value in replaced.items():
        model.get_parameter(name).copy_(value)
    # Linear layers first: a norm's change may go in front of one that was changed itself.
    modules = {path: model.get_submodule(path) for path in found}
    for path in sorted(found, key=lambda path: not isinstance(modules[path], nn.Linear)):
        _fold(model, sites, path, found[path])
    if "head.weight" in tensors:
        _set_head(model, sites.head, tensors)
    return model


def _read(model: nn.Module, stack: Stack) -> dict[str, Affine]:
    """Path → what its edit makes of the input (linear layers) or of the output (norms, conv)."""
    adapter = stack.members[0].adapter
    mode = stack.training
    stack.eval()
    device = stack.padding.device
    stack.prepare(1, torch.float32)
    found = {}
    try:
        if stack.changes_head:
            raise _refused(adapter.name, "the head")
        for path in adapter.target_modules(stack.sites):
            edit = stack.edited[path].edit
            if edit is not None:
                module = model.get_submodule(path)
                assert isinstance(module.base, nn.Module)
                found[path] = _affine(edit, module.base, path, adapter.name, device)
    finally:
        stack.train(mode)
    return found


def _affine(edit: Edit, base: nn.Module, path: str, name: str, device: torch.device) -> Affine:
    """The edit as an affine map; `AdapterError` if it is none, or its module has no weights."""
    if isinstance(base, nn.Linear):
        layer = copy.deepcopy(base).float()
        found = _probed(lambda x: edit(x, layer), base.in_features, device)
        before = _probed(layer, base.in_features, device)
        if found and before:  # only the difference: what is not changed stays as it is, bit by bit
            found = Affine(found.matrix - before.matrix, found.shift - before.shift)
    elif isinstance(base, nn.LayerNorm):
        found = _probed(lambda x: edit(x, nn.Identity()), int(base.normalized_shape[0]), device)
    elif isinstance(base, nn.Conv2d):
        same = _Same(base.out_channels, base.out_channels, 1, device=device)
        found = _probed(
            lambda x: edit(x[:, :, None, None], same)[:, :, 0, 0], base.out_channels, device
        )
    else:
        found = None
    if found is None:
        raise _refused(name, path)
    return found


class _Same(nn.Conv2d):
    """A convolution that leaves its input as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _probed(call: Callable[[Tensor], Tensor], width: int, device: torch.device) -> Affine | None:
    """The affine map that `call` computes on rows (N, width); None if it is not one."""
    shift = call(torch.zeros(1, width, device=device))
    matrix = call(torch.eye(width, device=device)) - shift
    probe = torch.linspace(-1, 1, 4 * width, device=device).sin().view(4, -1)
    found, expected = call(probe), probe @ matrix + shift
    if (found - expected).norm() > _LINEAR_TO * max(found.norm(), expected.norm()):
        return None
    return Affine(matrix, shift[0])


def _refused(name: str, path: str) -> AdapterError:
    return AdapterError(
        f"{name} cannot be merged: what it does at {path} is not linear; save it instead."
    )


def _fold(model: nn.Module, sites: Sites, path: str, change: Affine) -> None:
    module = model.get_submodule(path)
    if isinstance(module, nn.Linear):
        _set(module, module.weight.float() + change.matrix.mT, _bias(module) + change.shift)
    elif isinstance(module, nn.Conv2d):
        weight = torch.einsum("oihw,op->pihw", module.weight.float(), change.matrix)
        _set(module, weight, _bias(module) @ change.matrix + change.shift)
    elif _is_diagonal(change.matrix):
        assert isinstance(module, nn.LayerNorm)
        weight = module.weight.float() * change.matrix.diagonal()
        _set(module, weight, _bias(module) @ change.matrix + change.shift)
    else:
        assert isinstance(module, nn.LayerNorm)
        feeds = next(norm.feeds for norm in sites.norms if norm.path == path)
        reader = model.get_submodule(feeds)
        assert isinstance(reader, nn.Linear)
        # The shift goes in front of the matrix: what lies between norm and reader, such as the
        # zeros that pad Swin's windows, must not be shifted.
        shift = torch.linalg.solve(change.matrix.double().mT, change.shift.double()).float()
        _set(module, module.weight, _bias(module) + shift)
        _set(reader, (change.matrix @ reader.weight.float().mT).mT, _bias(reader))


def _bias(module: nn.Linear | nn.Conv2d | nn.LayerNorm) -> Tensor:
    """In fp32; zeros if it has none."""
    bias: Tensor | None = module.bias
    return module.weight.new_zeros(len(module.weight)).float() if bias is None else bias.float()


def _set(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """New values; a layer without bias gets one only if it needs it."""
    old = module.get_parameter("weight")
    old.copy_(weight)
    if module.bias is not None:
        module.get_parameter("bias").copy_(bias)
    elif bias.any():
        module.bias = nn.Parameter(bias.to(old), requires_grad=old.requires_grad)


def _is_diagonal(matrix: Tensor) -> bool:
    rest = matrix - torch.diag(matrix.diagonal())
    return bool(rest.abs().max() <= 1e-6 * matrix.abs().max())


def _set_head(model: nn.Module, path: str, tensors: dict[str, Tensor]) -> None:
    classes, width = tensors["head.weight"].shape
    head = nn.Linear(width, classes).to(next(model.parameters()))
    head.weight.copy_(tensors["head.weight"])
    head.bias.copy_(tensors["head.bias"])
    model.set_submodule(path, head.train(model.training))
    setattr(model, "num_classes", classes)  # noqa: B010 (nn.Module types attributes as tensors)
