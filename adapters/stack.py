"""The trial axis: K trials of one adapter family on one frozen timm model.

Every trained tensor carries a leading axis K; the model's batch is K·B images, trial after trial,
so each frozen product runs once for all K. Smaller ranks and fewer classes are zero-padded: zero
factors keep zero gradients, so the padding is exact. Modules are substituted, `forward` is never
patched; nothing of the backbone's own code or weights changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapters.base import Adapter, Context, Edit, Kind, Parameter, Tensors, uniform
from adapters.errors import AdapterError
from adapters.fuse import Update
from adapters.hyperparameters import without_per_trial_fields
from adapters.sites import Sites
from adapters.trial_axis import RandomMasks, own_part, pad_stack

HEAD = ("head.weight", "head.bias")
"""The linear classifier's tensors, which the stack itself computes the logits with."""
HEAD_INITS = ("default", "kaiming", "zero")


@dataclass(frozen=True)
class Member:
    """One trial of a stack: its adapter, seed, parameters, and drop-path rate of the last block.

    `parameters` are at the trial's own shapes, without the trial axis; `head.weight` (classes, D)
    and `head.bias` (classes) are among them unless the model has no head.
    """

    adapter: Adapter
    seed: int
    parameters: Mapping[str, Parameter]
    drop_path: float = 0.0

    @property
    def tensors(self) -> Tensors:
        """Name → value of every parameter."""
        return {name: parameter.value for name, parameter in self.parameters.items()}

    def of_kind(self, kind: Kind) -> Tensors:
        """Name → value of the parameters of one kind."""
        return {name: p.value for name, p in self.parameters.items() if p.kind is kind}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Member:
        """The same trial with other values, one for each of its parameters."""
        values = {n: replace(p, value=tensors[n]) for n, p in self.parameters.items()}
        return replace(self, parameters=values)

    def with_head(self, weight: Tensor, bias: Tensor) -> Member:
        """The same trial with a linear head (classes, D), (classes)."""
        decays = (True, self.adapter.decays_head_bias)
        head = zip(HEAD, (weight, bias), decays, strict=True)
        own = {name: Parameter(value, Kind.HEAD, decay) for name, value, decay in head}
        return replace(self, parameters={**self.parameters, **own})

    @property
    def classes(self) -> int | None:
        """Number of classes, None without a head."""
        bias = self.parameters.get("head.bias")
        return None if bias is None else bias.value.shape[0]

    @property
    def trained_count(self) -> int:
        """The number of trained values outside the head, as the papers' tables count them."""
        return sum(tensor.numel() for tensor in self.of_kind(Kind.TRAINED).values())


def start_member(
    adapter: Adapter,
    sites: Sites,
    seed: int,
    classes: int | None,
    head_init: str = "default",
    drop_path: float = 0.0,
) -> Member:
    """A trial at its start, drawn from its own seed on the CPU: the same on every device.

    `head_init`: `default` is the adapter's own, mostly nn.Linear's (uniform ±1/√D); `kaiming` has a
    normal weight of deviation √(2/classes) with nn.Linear's bias, as VPT's code; `zero` is 0.
    """
    if head_init not in HEAD_INITS:
        raise AdapterError(f"head_init is {head_init!r}; allowed: {', '.join(HEAD_INITS)}.")
    if not 0 <= drop_path < 1:
        raise AdapterError(f"drop_path is {drop_path!r}; allowed: at least 0 and below 1.")
    if classes is not None and classes < 1:
        raise AdapterError(f"num_classes is {classes!r}; allowed: at least 1, or None.")
    generator = torch.Generator().manual_seed(seed)
    started = adapter.start(adapter.select(sites), generator)
    parameters = {n: t if isinstance(t, Parameter) else Parameter(t) for n, t in started.items()}
    member = Member(adapter, seed, parameters, drop_path)
    if classes is None:
        return member
    weight, bias = torch.zeros(classes, sites.width), torch.zeros(classes)
    start = adapter.head_start if head_init == "default" else head_init
    if start in ("uniform", "kaiming"):
        weight, bias = (uniform(t.shape, 1 / sqrt(sites.width), generator) for t in (weight, bias))
    if start == "kaiming":
        nn.init.kaiming_normal_(weight, mode="fan_out", generator=generator)
    elif start == "normal":
        nn.init.trunc_normal_(weight, std=0.02, generator=generator)
    return member.with_head(weight, bias)


@dataclass
class Undo:
    """What `detach` needs: modules substituted, parameters replaced, earlier flags, hooks."""

    substituted: list[tuple[str, nn.Module]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    flags: dict[str, bool] = field(default_factory=dict)
    hooks: list[RemovableHandle] = field(default_factory=list)


class Stack(nn.Module):
    """The trained tensors of K trials and what their forward pass needs; lives in `model.adapter`.

    In training, `steps` (one per trial) selects the masks and rises by one with every forward;
    set it to resume. `counted` says how many of each trial's images are its batch where some only
    fill it up (None: all). `chosen` restricts evaluation to some trials (the batch then has only
    theirs). `context` is that of the current forward pass. `unshareable` names a module of the
    model that keeps it to one trial, if there is one. `attach` registers the modules that it puts
    into the model: `edited` by path, and `drop_paths` in order.
    """

    padding: Tensor
    path_table: Tensor

    def __init__(self, sites: Sites, members: Sequence[Member], unshareable: str = "") -> None:
        super().__init__()
        self.backbone_sites = sites
        self.chosen: list[int] | None = None
        self.counted: list[int] | None = None
        self.context: Context | None = None
        self.edited: dict[str, Any] = {}
        self.drop_paths: list[Any] = []
        self.undo = Undo()
        self.declared: dict[str, Parameter] = {}
        self._unshareable = unshareable
        self._weights: dict[str, Tensor] = {}
        self._head: Update | None = None
        self._vectors: dict[tuple[int, ...], dict[tuple[Any, ...], Tensor]] = {}
        self.rebuild(members)

    @property
    def trials(self) -> int:
        """K, or the number of chosen trials."""
        return len(self.members) if self.chosen is None else len(self.chosen)

    def rebuild(self, members: Sequence[Member], device: torch.device | None = None) -> None:
        """Replaces the trials; parameters become new fp32 tensors (K, …) on `device`."""
        _check_stackable(members, self._unshareable)
        self.members = tuple(members)
        self.steps = [0] * len(members)
        self.counted = None
        self.sites = members[0].adapter.select(self.backbone_sites)
        values = [member.tensors for member in members]
        self.shapes = tuple({n: tuple(t.shape) for n, t in own.items()} for own in values)
        for name in self.declared:
            delattr(self, _registered(name))
        self.declared = dict(members[0].parameters)
        for name, parameter in self.declared.items():
            stacked = pad_stack([own[name].float() for own in values]).to(device)
            if parameter.kind is Kind.STATE:
                self.register_buffer(_registered(name), stacked)
            else:
                self.register_parameter(_registered(name), nn.Parameter(stacked))
        classes = [member.classes or 0 for member in members]
        padding = torch.arange(max(classes)).unsqueeze(0) >= torch.tensor(classes).unsqueeze(1)
        self.register_buffer("padding", padding.unsqueeze(1).to(device), persistent=False)
        depth = self.backbone_sites.depth
        self._path_rates = [path_rates(member.drop_path, depth) for member in members]
        table = torch.tensor(self._path_rates, device=device)
        self.register_buffer("path_table", table, persistent=False)
        self._vectors.clear()
        self.release()

    def stacked(self, kind: Kind | None = None) -> Tensors:
        """Name → tensor (K, …), padded, of every parameter or of those of one kind."""
        return {
            name: getattr(self, _registered(name))
            for name, parameter in self.declared.items()
            if kind in (None, parameter.kind)
        }

    @property
    def undecayed(self) -> tuple[str, ...]:
        """Names (as in `named_parameters`) of the trained tensors that weight decay spares."""
        return tuple(_registered(name) for name, p in self.declared.items() if not p.decay)

    def tensors_of(self, index: int) -> Tensors:
        """The tensors of one trial at its own shapes, copied."""
        stacked = self.stacked()
        return {n: own_part(stacked[n], index, shape) for n, shape in self.shapes[index].items()}

    def release(self) -> None:
        """Releases the last forward pass, whose tensors hold its graph."""
        self._weights, self._head, self.context = {}, None, None
        self._give({}, None)

    def prepare(self, images: int, dtype: torch.dtype) -> None:
        """Prepares one forward pass over `images` = K·B images; called by a hook on the model."""
        if images % self.trials:
            raise AdapterError(
                f"a batch of {images} images does not divide among {self.trials} trials."
            )
        picked = range(len(self.members)) if self.chosen is None else self.chosen
        members = tuple(self.members[index] for index in picked)
        tensors = {n: self._cast(n, t, dtype) for n, t in self.stacked().items() if n not in HEAD}
        masks = None
        if self.training:
            seeds = [member.seed for member in members]
            dropouts = [getattr(member.adapter, "dropout", 0.0) for member in members]
            steps = [self.steps[index] for index in picked]
            masks = RandomMasks(seeds, steps, self.padding.device, dropouts)
            for index in picked:
                self.steps[index] += 1
        self.context = context = Context(
            tuple(member.adapter for member in members),
            tuple(self.shapes[index] for index in picked),
            masks,
            self.padding.device,
            dtype,
            self._vectors.setdefault(tuple(picked), {}),
            tuple(self.counted) if self.training and self.counted is not None else None,
        )
        adapter = without_per_trial_fields(members[0].adapter)
        edits = adapter.edits(tensors, self.sites, context)
        trained = {n: t for n, t in tensors.items() if self.declared[n].kind is Kind.TRAINED}
        self._weights = {name: t[0] for name, t in adapter.weights(trained).items()}
        self._head = adapter.head(tensors, context)
        rates, table = [self._path_rates[i] for i in picked], self._pick(self.path_table)
        paths = masks.drop_paths(rates, table, images // self.trials) if masks else None
        self._give(edits, None if paths is None else paths.flatten(1).to(dtype))

    def _give(self, edits: Mapping[str, Edit], masks: Tensor | None) -> None:
        """To the modules that were put in: their edits and drop-path masks of a forward pass."""
        for path, module in self.edited.items():
            module.edit = edits.get(path)
        for index, module in enumerate(self.drop_paths):
            module.mask = None if masks is None else masks[index]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: not the last forward pass, whose tensors belong to its graph."""
        return {**self.__dict__, "_weights": {}, "_head": None, "_vectors": {}, "context": None}

    @property
    def changes_head(self) -> bool:
        """Whether something happens to the features before the last linear layer."""
        return self._head is not None

    def replacement(self, name: str, original: Tensor) -> Tensor:
        """What replaces a parameter of the backbone; itself if nothing does yet."""
        return self._weights.get(name, original)

    def logits(self, features: Tensor) -> Tensor:
        """Pooled features (K·B, D) → logits (K·B, most classes), −inf beyond a trial's own.

        In fp32, under autocast too.
        """
        weight, bias = (self._pick(self.get_parameter(_registered(name))) for name in HEAD)
        x = features.float().view(self.trials, -1, features.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            x = x if self._head is None else self._head(x)
            logits = x @ weight.mT + bias.unsqueeze(1)
        return logits.masked_fill(self._pick(self.padding), -torch.inf).flatten(0, 1)

    def _cast(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The picked trials' tensor, in the backbone's dtype; the head's and states stay as is."""
        picked = self._pick(tensor)
        return picked.to(dtype) if self.declared[name].kind is Kind.TRAINED else picked

    def _pick(self, tensor: Tensor) -> Tensor:
        return tensor if self.chosen is None else tensor[self.chosen]


def path_rates(last: float, depth: int) -> list[float]:
    """Rates of the 2·depth drop-path modules, rising linearly from 0 in block 0 to `last`."""
    return [last * block / max(depth - 1, 1) for block in range(depth) for _ in range(2)]


def _check_stackable(members: Sequence[Member], unshareable: str) -> None:
    families = {member.adapter.family() for member in members}
    if len(families) != 1:
        shown = "; ".join(sorted(map(repr, families))) or "no trial at all"
        raise AdapterError(f"only trials of one adapter family share a stack, not: {shown}.")
    if len({member.classes is None for member in members}) != 1:
        raise AdapterError("a stack has heads for all of its trials or for none.")
    if members[0].adapter.max_trials == 1 and len(members) > 1:
        raise AdapterError(
            f"'{members[0].adapter.name}' trains the backbone's own weights, of which there is one "
            f"copy: one trial, not {len(members)}."
        )
    if unshareable and len(members) > 1:
        raise AdapterError(
            f"'{unshareable}' draws from the global random generator or mixes images, so this "
            "model takes one trial; create it without dropout and batch norm to take several "
            "(attach's drop_path= sets stochastic depth per trial)."
        )


def _registered(name: str) -> str:
    return name.replace(".", "/")  # torch forbids dots in parameter names
