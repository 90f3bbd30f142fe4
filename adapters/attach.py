"""attach and detach: an adapter on a timm model and off it, by substituted modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrize import register_parametrization, type_before_parametrizations

from adapters.backbones import find_sites
from adapters.base import Adapter, Edit, Kind
from adapters.errors import AdapterError
from adapters.sites import Sites
from adapters.stack import Member, Stack, start_member

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
        head_init: `default` (the adapter's own, mostly nn.Linear's), `kaiming` or `zero`.
        drop_path: rate of the last block, rising linearly from 0, replacing the model's own
            drop-path. None keeps the model's.

    Raises:
        UnsupportedBackbone: the model is not built of known blocks.
        AdapterError: a selection matches nothing, a value is not allowed, the trials cannot share
            a stack, or an adapter is attached already.
    """
    sites = free_sites(model)
    adapters = _per_trial(adapter)
    for one in adapters:
        if not isinstance(one, Adapter):
            raise AdapterError(f"attach takes adapters such as LoRA(rank=8), not {one!r}.")
    seeds, classes, rates = (_per_trial(v, len(adapters)) for v in (seed, num_classes, drop_path))
    members = []
    for one, own_seed, own_classes, rate in zip(adapters, seeds, classes, rates, strict=True):
        member = start_member(one, sites, own_seed, own_classes, head_init, rate or 0.0)
        head = model.get_submodule(sites.head)
        if own_classes is None and isinstance(head, nn.Linear):
            bias = head.weight.new_zeros(head.out_features) if head.bias is None else head.bias
            member = member.with_head(head.weight.detach().clone(), bias.detach().clone())
        members.append(member)
    return attach_members(model, members, replace_drop_path=drop_path is not None)


def attach_members(model: M, members: Sequence[Member], *, replace_drop_path: bool = True) -> M:
    """`attach` for trials whose tensors exist already (resumed, loaded or started elsewhere)."""
    sites = free_sites(model)
    stack = Stack(sites, members, unshareable=_unshareable(model, replace_drop_path))
    stack.to(next(model.parameters()).device)
    stack.undo.flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)

    def substitute(path: str, module: nn.Module) -> None:
        stack.undo.substituted.append((path, model.get_submodule(path)))
        model.set_submodule(path, module)

    adapter = members[0].adapter
    if replace_drop_path:
        for index in range(2 * sites.depth):
            path = sites.every_block[index // 2].drop_path(index % 2 + 1)
            stack.drop_paths.append(TrialDropPath())
            substitute(path, stack.drop_paths[index])
    paths = adapter.target_modules(stack.sites)
    for path in sorted(paths, key=lambda path: path.count("."), reverse=True):  # inner ones first
        stack.edited[path] = Edited(model.get_submodule(path))
        substitute(path, stack.edited[path])
    for name in adapter.weights(stack.stacked(Kind.TRAINED)):
        path, _, last = name.rpartition(".")
        # Unsafe only in that torch does not run it now, when there is no forward pass yet.
        register_parametrization(
            model.get_submodule(path), last, Replaced(stack, name), unsafe=True
        )
        stack.undo.replaced.append(name)
    if members[0].classes is not None:
        substitute(sites.head, StackedHead(stack))
    model.add_module("adapter", stack)
    model.train(model.training)  # the new modules too
    first = model.get_submodule("patch_embed")  # every way through a timm ViT begins with it
    stack.undo.hooks.append(first.register_forward_pre_hook(_Prepare(stack)))
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
    undo = attached(model).undo
    for hook in undo.hooks:
        hook.remove()
    for path in {name.rpartition(".")[0] for name in undo.replaced}:
        _put_back(model.get_submodule(path))
    delattr(model, "adapter")
    like = next(model.parameters())  # the model may have moved meanwhile
    for path, module in reversed(undo.substituted):
        model.set_submodule(path, module.to(like).train(model.training))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(undo.flags[name])
    return model


def free_sites(model: nn.Module) -> Sites:
    """The sites of a model that can take an adapter: `AdapterError` if it has one already."""
    if isinstance(getattr(model, "adapter", None), Stack):
        raise AdapterError(
            f"an adapter is attached to this {type(model).__name__} already; detach or merge it."
        )
    return find_sites(model)


def _put_back(module: nn.Module) -> None:
    """The module's own class and parameters again.

    Not with torch's `remove_parametrizations`: it also changes the class that torch made for the
    module, which a copy of the model shares.
    """
    replaced = module.parametrizations
    assert isinstance(replaced, nn.ModuleDict)
    module.__class__ = type_before_parametrizations(module)
    del module.parametrizations
    for last, entry in replaced.items():
        module.register_parameter(last, entry.get_parameter("original"))


class _Prepare:
    """Prepares the stack before a forward pass: an object, so that a copied model copies it too."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def __call__(self, first: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._stack.prepare(inputs[0].shape[0], next(first.parameters()).dtype)


def _per_trial(value: Any, count: int | None = None) -> list[Any]:
    """A value for each trial: those of a sequence, or one value for all."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    values = list(value) if several else [value] * (1 if count is None else count)
    if count not in (None, len(values)):
        raise AdapterError(f"{len(values)} values {values} for {count} trials.")
    return values


def _unshareable(model: nn.Module, replaced: bool) -> str:
    """The name of a module that draws from the global random generator or keeps statistics of the
    whole batch, so that a trial would depend on the others; '' if there is none.
    """
    from timm.layers import DropPath, PatchDropout

    named: dict[str, nn.Module] = dict(model.named_modules())
    for name, module in named.items():
        random = isinstance(module, _DropoutNd) and module.p > 0
        path = isinstance(module, DropPath) and not replaced
        if random or path or isinstance(module, PatchDropout | _BatchNorm):
            return name
    return ""


class _StackModule(nn.Module):
    """A module that is put in place of one of the backbone's."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self._stack = (stack,)  # in a tuple, so that its parameters are not registered here again


class Edited(nn.Module):
    """A frozen module and the edit of it in the current forward pass, None outside of one.

    The stack gives it (`Stack.prepare`) rather than being asked, so that nothing here names the
    place: compiled, a block is the same code as the next one.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.edit: Edit | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: not the edit, whose tensors belong to a forward pass."""
        return {**self.__dict__, "edit": None}

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """As the frozen module, with the batch of all trials."""
        if self.edit is not None:
            return self.edit(x, self.base, *arguments, **named)
        return self.base(x, *arguments, **named)  # type: ignore[no-any-return]

    def read(self, x: Tensor) -> None:
        """Gives its input to the edit of a block that only reads (`Adapter.reads`)."""
        if self.edit is not None:
            self.edit(x, nn.Identity())


class TrialDropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016) whose masks come from each trial's own seed.

    `mask` (K·B) is that of the current forward pass: 0 or 1/(1-rate) per image; None drops nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (K·B, …), scaled per image in training."""
        if self.mask is None or not self.training:
            return x
        return x * self.mask.view(-1, *[1] * (x.dim() - 1))


class StackedHead(_StackModule):
    """The heads of all trials."""

    def forward(self, x: Tensor) -> Tensor:
        """x (K·B, D) → (K·B, classes)."""
        return self._stack[0].logits(x)


class Replaced(_StackModule):
    """Parametrisation: the stack's tensor instead of a parameter of the backbone."""

    def __init__(self, stack: Stack, name: str) -> None:
        super().__init__(stack)
        self._name = name

    def forward(self, original: Tensor) -> Tensor:
        """The original, unless a forward pass has been prepared."""
        return self._stack[0].replacement(self._name, original)
