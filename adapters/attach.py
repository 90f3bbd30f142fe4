"""attach, detach, merge, save, load: an adapter's life on a timm model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from adapters.base import Adapter
from adapters.errors import AdapterError
from adapters.sites import find_sites
from adapters.stack import AdaptedLinear, Member, Stack, StackedHead, TrialDropPath, start_member

M = TypeVar("M", bound=nn.Module)


def attach(
    model: M,
    adapter: Adapter | Sequence[Adapter],
    *,
    num_classes: int | Sequence[int] | None = None,
    seed: int | Sequence[int] = 0,
    head_init: str = "default",
    drop_path: float | Sequence[float] | None = None,
) -> M:
    """Freezes `model` and makes it trainable through `adapter`, in place; returns the model.

    One adapter is one trial: the batch stays (B, 3, H, W). A sequence of K adapters of one family
    trains K trials at once: give K·B images, trial after trial, and get K·B rows of logits.

    Args:
        model: a supported timm model.
        adapter: hyper-parameters, or one per trial.
        num_classes: makes a new head (per trial); None keeps the model's own as the start.
        seed: of the initialisation and of all masks, per trial.
        head_init: `default` (nn.Linear's) or `zero`.
        drop_path: rate of the last block, rising linearly from 0, replacing the model's own
            drop-path. None keeps the model's.

    Raises:
        UnsupportedBackbone: the model is not built of known blocks.
        AdapterError: a selection matches nothing, or the trials cannot share a stack.
    """
    adapters = [adapter] if isinstance(adapter, Adapter) else list(adapter)
    sites = find_sites(model)
    seeds, classes, rates = (_per_trial(v, len(adapters)) for v in (seed, num_classes, drop_path))
    members = []
    for one, own_seed, own_classes, rate in zip(adapters, seeds, classes, rates, strict=True):
        member = start_member(one, sites, own_seed, own_classes, head_init, rate or 0.0)
        members.append(member if own_classes is not None else _with_own_head(member, model))
    return attach_members(model, members, replace_drop_path=drop_path is not None)


def attach_members(model: M, members: Sequence[Member], *, replace_drop_path: bool = True) -> M:
    """`attach` for trials whose tensors exist already (resumed, loaded or started elsewhere)."""
    sites = find_sites(model)
    _check_randomness(model, len(members), replace_drop_path)
    stack = Stack(sites, members)
    place = next(model.parameters())
    stack.to(place.device)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    undo: list[tuple[str, nn.Module]] = []

    def substitute(path: str, module: nn.Module) -> None:
        undo.append((path, model.get_submodule(path)))
        model.set_submodule(path, module)

    for site in stack.sites.linears:
        substitute(site.path, AdaptedLinear(model.get_submodule(site.path), stack, site.path))
    if replace_drop_path:
        for index in range(2 * sites.depth):
            substitute(f"blocks.{index // 2}.drop_path{index % 2 + 1}", TrialDropPath(stack, index))
    if members[0].classes is not None:
        substitute("head", StackedHead(stack))
    stack.train(model.training)
    model.add_module("adapter", stack)

    def prepare(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        stack.prepare(inputs[0].shape[0], place.dtype, sites.depth)

    hook = model.register_forward_pre_hook(prepare)
    stack.undo = (undo, flags, hook)
    return model


def attached(model: nn.Module) -> Stack:
    """The stack of an adapted model; `AdapterError` if nothing is attached."""
    stack = getattr(model, "adapter", None)
    if not isinstance(stack, Stack):
        raise AdapterError(
            f"no adapter is attached to this {type(model).__name__}; call attach first."
        )
    return stack


def detach(model: M) -> M:
    """Takes the adapter and its head away: the model as it was before `attach`."""
    stack = attached(model)
    undo, flags, hook = stack.undo
    hook.remove()
    for path, module in reversed(undo):
        model.set_submodule(path, module)
        module.train(model.training)
    delattr(model, "adapter")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    return model


@torch.no_grad()
def merge(model: M) -> M:
    """Folds a lone adapter and its head into the weights: a plain timm model, no trace left.

    The merged forward equals the adapted one to 1e-5 relative in fp32. ΔW of a layer is its own
    update of the identity matrix, so there is no second implementation of any method. Raises
    `AdapterError` for a stack of several trials (merge one: `adapters.load` it first).
    """
    stack = attached(model)
    if len(stack.members) != 1:
        raise AdapterError(f"merge takes one trial, this stack has {len(stack.members)}.")
    mode, tensors = model.training, stack.tensors_of(0)
    stack.eval()
    stack.prepare(1, torch.float32, stack.backbone_sites.depth)
    for site in stack.sites.linears:
        update, layer = stack.update(site.path), model.get_submodule(f"{site.path}.base")
        if update is not None and isinstance(layer, nn.Linear):
            eye = torch.eye(site.inputs, device=layer.weight.device).unsqueeze(0)
            layer.weight += update(eye)[0].mT.to(layer.weight.dtype)
    detach(model)
    if "head.weight" in tensors:
        head = nn.Linear(*reversed(tensors["head.weight"].shape)).to(next(model.parameters()))
        head.weight.copy_(tensors["head.weight"])
        head.bias.copy_(tensors["head.bias"])
        model.set_submodule("head", head)
        model.num_classes = head.out_features  # type: ignore[assignment]
    return model.train(mode)


def _per_trial(value: Any, count: int) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise AdapterError(f"{len(values)} values {values} for {count} trials.")
    return values


def _with_own_head(member: Member, model: nn.Module) -> Member:
    head = model.get_submodule("head")
    if isinstance(head, nn.Linear):
        member.tensors["head.weight"] = head.weight.detach().clone()
        bias = head.bias if head.bias is not None else torch.zeros(head.out_features)
        member.tensors["head.bias"] = bias.detach().clone()
    return member


def _check_randomness(model: nn.Module, trials: int, replaced: bool) -> None:
    """Modules that draw from the global generator would let trials feel their neighbours."""
    if trials == 1:
        return
    for name, module in model.named_modules():
        dropout = isinstance(module, nn.Dropout) and module.p > 0
        path = type(module).__name__ == "DropPath" and not replaced
        if dropout or path:
            raise AdapterError(
                f"'{name}' draws from the global random generator, which several trials would share; "
                "create the model with its dropout rates at 0 (drop_path= of attach sets it per trial)."
            )
