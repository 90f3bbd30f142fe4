"""The one page of the interface: what an adapter is, and the five things to do with one.

    model = timm.create_model("vit_base_patch16_224", pretrained=True)
    attach(model, LoRA(rank=8), num_classes=100)     # frozen backbone, trainable adapter and head
    ...                                              # train model.parameters() that require grad
    save(model, "folder"); merge(model)              # a plain timm model again

An adapter is a frozen dataclass whose fields are its hyper-parameters. It says which places of a
backbone it changes (`select`, `places`), how its tensors start (`start`) and what becomes of those
places in a forward pass (`edits`). It is written once, on the trial axis: see `adapters.stack`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapters.knobs import check_fields
from adapters.lowrank import LowRank, updated
from adapters.noise import Noise
from adapters.sites import Linear, Sites

Tensors = dict[str, Tensor]

Update = Callable[[Tensor], Tensor]
"""x (K, N, in) → what is added to the layer's output (K, N, out of all its parts)."""
Edit = Callable[..., Tensor]
"""(x, base, …) → the place's new output: `x` (K·B, …) is its input as the backbone gives it, `base`
the frozen module, which the edit calls. `Context` makes the common ones: added, mapped."""


@dataclass(frozen=True)
class Context:
    """What a stack knows of its K trials when it prepares a forward pass.

    `adapters` and `shapes` have one entry per trial (shapes: tensor name → the trial's own shape
    before padding); `noise` is None in evaluation; `dtype` is the backbone's.
    """

    adapters: tuple[Adapter, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    noise: Noise | None
    device: torch.device
    dtype: torch.dtype
    vectors: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    """What `vector` made of these trials, which the stack keeps from one pass to the next."""

    @property
    def trials(self) -> int:
        """K."""
        return len(self.adapters)

    def split(self, x: Tensor) -> Tensor:
        """(K·B, …, features) → (K, N, features)."""
        return x.reshape(self.trials, -1, x.shape[-1])

    def added(self, update: Update) -> Edit:
        """The edit of a linear layer to whose output an update of its input is added."""

        def edit(x: Tensor, base: nn.Module, *_: object, **__: object) -> Tensor:
            tokens = self.split(x)
            if isinstance(update, LowRank) and isinstance(base, nn.Linear):
                y = updated(tokens, base, update)
            else:
                y = base(tokens) + update(tokens)
            return y.view(*x.shape[:-1], -1)

        return edit

    def mapped(self, change: Update) -> Edit:
        """The edit of a place whose output (K, N, features) is changed; a convolution's too."""

        def edit(x: Tensor, base: nn.Module, *arguments: Any, **named: Any) -> Tensor:
            y: Tensor = base(x, *arguments, **named)
            if isinstance(base, nn.Conv2d):
                y = y.permute(0, 2, 3, 1)
                return change(self.split(y)).view(y.shape).permute(0, 3, 1, 2)
            return change(self.split(y)).view(y.shape)

        return edit

    def vector(self, name: str) -> Tensor:
        """Field `name` of every trial as (K, 1, 1), ready to scale (K, N, features)."""
        place = (name, self.dtype, self.device)
        if place not in self.vectors:
            values = [float(getattr(adapter, name)) for adapter in self.adapters]
            column = torch.tensor(values, device=self.device, dtype=self.dtype)
            self.vectors[place] = column.view(-1, 1, 1)
        return self.vectors[place]

    @property
    def drops(self) -> bool:
        """Whether this pass drops anything of any trial by `dropout`."""
        rates = (getattr(adapter, "dropout", 0.0) for adapter in self.adapters)
        return self.noise is not None and any(rates)

    def drop_factor(self, name: str, tensor: Tensor) -> Tensor:
        """Dropout on a factor (K, …) with every trial's own `dropout` rate and shape."""
        return self._dropped(tensor, [shape[name] for shape in self.shapes])

    def drop_activation(self, tensor: Tensor, factor: str = "") -> Tensor:
        """Dropout on an activation (K, …, features) with every trial's own `dropout` rate.

        `factor` names the tensor whose last axis the activation has, where trials differ in it:
        masks are drawn at each trial's own width.
        """
        sizes = tuple(tensor.shape[1:])
        if not factor:
            return self._dropped(tensor, [sizes] * self.trials)
        return self._dropped(tensor, [(*sizes[:-1], s[factor][-1]) for s in self.shapes])

    def _dropped(self, tensor: Tensor, shapes: Sequence[tuple[int, ...]]) -> Tensor:
        if self.noise is None:
            return tensor
        rates = [getattr(adapter, "dropout", 0.0) for adapter in self.adapters]
        mask = self.noise.dropout(rates, shapes)
        return tensor if mask is None else tensor * mask.to(tensor.dtype)


@dataclass(frozen=True)
class Adapter(ABC):
    """How a frozen backbone becomes trainable; the fields of a subclass are the hyper-parameters.

    Subclasses set `name` (unique, lower case) and implement `select`, `start` and `edits` (or, if
    all they do is add to linear layers, `updates`). `edits` is called on one member of a stack for
    all K of them: what differs between trials comes from `context`, never from `self`.

    Tensors whose name starts with `head.` belong to the head: they stay in fp32 and are not counted
    as the adapter's. Those that start with `state.` are not trained (running statistics).
    """

    name: ClassVar[str]
    zero_head: ClassVar[bool] = False
    """Whether the head starts at 0 by default, not as nn.Linear does."""
    lone: ClassVar[bool] = False
    """Whether a stack of it holds one trial only."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def select(self, sites: Sites) -> Sites:
        """The part of a backbone's sites that this adapter changes."""

    @abstractmethod
    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """One trial's tensors at their start, without the trial axis (fp32, CPU)."""

    def places(self, sites: Sites) -> tuple[str, ...]:
        """Paths of the modules that are edited; those of the selected linear layers by default."""
        return tuple(site.path for site in sites.linears)

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """Path → edit, for one forward pass; `tensors` are (K, …), zero-padded."""
        updates = self.updates(tensors, sites, context)
        return {path: context.added(update) for path, update in updates.items()}

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> Mapping[str, Update]:
        """Path of a linear layer → what is added to its output; for those that only add.

        A `LowRank` where it is one: layer and update are then computed together.
        """
        return {}

    def weights(self, tensors: Tensors) -> Mapping[str, Tensor]:
        """Name → tensor of the backbone's own parameters that this (lone) adapter replaces."""
        return {}

    def head(self, tensors: Tensors, context: Context) -> Update | None:
        """Features (K, B, D) → what the last linear layer reads; None: the features themselves."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The hyper-parameters as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def family(self) -> tuple[tuple[str, Any], ...]:
        """Trials stack if this is equal: name and value of all that cannot differ in a stack.

        The adapter's own name comes first.
        """
        fixed = [f.name for f in fields(self) if not f.metadata.get("stacks")]
        return (("adapter", self.name), *((name, getattr(self, name)) for name in fixed))


def uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    """Uniform on ±bound."""
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)


def by_parts(site: Linear, parts: Mapping[str, Update]) -> Update:
    """One update for a (fused) layer from the updates of its chosen parts; the others get zeros."""

    def update(x: Tensor) -> Tensor:
        return spread(site, {part: part_update(x) for part, part_update in parts.items()})

    return update


def spread(site: Linear, outputs: Mapping[str, Tensor]) -> Tensor:
    """Outputs (K, N, out) by part → (K, N, all parts · out), zeros for parts not chosen.

    Matrices (K, r, out) that make outputs of them likewise.
    """
    if len(site.parts) == 1:
        return outputs[site.parts[0]]
    some = next(iter(outputs.values()))
    zeros = some.new_zeros(()).expand_as(some)
    return torch.cat([outputs.get(part, zeros) for part in site.parts], dim=-1)
