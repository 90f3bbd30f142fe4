"""The page of the interface: what an adapter is, and what can be done with one.

    model = timm.create_model("vit_base_patch16_224", pretrained=True)
    attach(model, LoRA(rank=8), num_classes=100)     # frozen backbone, trainable adapter and head
    ...                                              # train model.parameters() that require grad
    save(model, "folder"); merge(model)              # a plain timm model again

An adapter is a frozen dataclass whose fields are its hyper-parameters. It says which modules of a
backbone it changes (`select`, `target_modules`), how its tensors start (`start`) and what becomes
of those modules in a forward pass (`edits`). It is written once, on the trial axis: see
`adapters.stack`. `adapters.testing.check` tests one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapters.fuse import LowRank, Update, updated
from adapters.hyperparameters import check_fields, per_trial_fields
from adapters.sites import Sites
from adapters.trial_axis import RandomMasks

Tensors = dict[str, Tensor]

Edit = Callable[..., Tensor]
"""(x, base, …) → the module's new output: `x` (K·B, …) is its input as the backbone gives it,
`base` the frozen module, which the edit calls. `Context` makes the common ones: added, mapped."""


class Kind(Enum):
    """What a tensor of an adapter is for; what trains, and in which precision, follows from it."""

    TRAINED = "trained"
    """The adapter's own: trained, counted, computed in the backbone's dtype."""
    HEAD = "head"
    """Part of the head, which comes after the features: trained, not counted, fp32."""
    STATE = "state"
    """Not trained and not counted (running statistics): fp32; `edits` and `head` may write it."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of one trial: its value without the trial axis, and what it is for."""

    value: Tensor
    kind: Kind = Kind.TRAINED
    decay: bool = True
    """Whether the recipe's weight decay acts on it."""


@dataclass(frozen=True)
class Context:
    """What a stack knows of its K trials when it prepares a forward pass.

    `adapters` and `shapes` have one entry per trial (shapes: tensor name → the trial's own shape
    before padding); `masks` is None in evaluation; `dtype` is the backbone's.
    """

    adapters: tuple[Adapter, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    masks: RandomMasks | None
    device: torch.device
    dtype: torch.dtype
    vectors: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    """Results of `kept` for these trials, which the stack keeps from one pass to the next."""
    counted: tuple[int, ...] | None = None
    """How many of each trial's B images are its batch (None: all); the others fill it up and must
    not enter statistics over images: see `image_weights`."""

    @property
    def trials(self) -> int:
        """K."""
        return len(self.adapters)

    @property
    def training(self) -> bool:
        """Whether this is a training pass."""
        return self.masks is not None

    def split(self, x: Tensor) -> Tensor:
        """(K·B, …, features) → (K, N, features)."""
        return x.reshape(self.trials, -1, x.shape[-1])

    def image_weights(self, batch: int) -> Tensor:
        """Weights (K, batch) of images in the mean over each trial's own ones, 0 beyond."""

        def weights() -> Tensor:
            counts = torch.tensor(self.counted or (batch,) * self.trials).unsqueeze(1)
            return (torch.arange(batch) < counts) / counts

        return self.kept(("image_weights", batch, self.counted), weights)

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
        """The edit of a module whose output (K, N, features) is changed; a convolution's too."""

        def edit(x: Tensor, base: nn.Module, *arguments: Any, **named: Any) -> Tensor:
            y: Tensor = base(x, *arguments, **named)
            if isinstance(base, nn.Conv2d):
                y = y.permute(0, 2, 3, 1)
                return change(self.split(y)).view(y.shape).permute(0, 3, 1, 2)
            return change(self.split(y)).view(y.shape)

        return edit

    def vector(self, name: str) -> Tensor:
        """Field (or property) `name` of every trial as (K, 1, 1), to scale (K, N, features)."""

        def column() -> Tensor:
            values = [float(getattr(adapter, name)) for adapter in self.adapters]
            return torch.tensor(values, dtype=self.dtype).view(-1, 1, 1)

        return self.kept((name, self.dtype), column)

    def kept(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives on the CPU, on the device; made and sent once for these trials."""
        if (*key, self.device) not in self.vectors:
            self.vectors[*key, self.device] = make().to(self.device)
        return self.vectors[*key, self.device]

    @property
    def drops(self) -> bool:
        """Whether a `dropout` field of some trial acts in this pass."""
        return self.masks is not None and self.masks.drops

    def drop_input(self, update: Update) -> Update:
        """`update` after dropout on its input; the update itself where this pass drops nothing."""
        return (lambda x: update(self.drop_activation(x))) if self.drops else update

    def drop_factor(self, name: str, tensor: Tensor) -> Tensor:
        """Dropout on a factor (K, …, rows, columns) with every trial's own `dropout` rate.

        `name` is the tensor that it is or was taken from, whose last two axes are each trial's own
        rows and columns; along the axes between, every matrix has a draw of its own.
        """
        if self.masks is None or not self.masks.drops:
            return tensor
        between = tuple(tensor.shape[1:-2])
        shapes = [(*between, *shape[name][-2:]) for shape in self.shapes]
        mask = self.masks.dropout(self.masks.rates, shapes)
        return tensor if mask is None else tensor * mask.to(tensor.dtype)

    def drop_activation(self, tensor: Tensor, widths: Tensor | None = None) -> Tensor:
        """Dropout on an activation (K, …, features) with every trial's own `dropout` rate.

        `widths` are those of `own_widths` where trials differ in the number of features: masks are
        drawn at each trial's own.
        """
        if self.masks is None or not self.masks.drops:
            return tensor
        return tensor * self.masks.of(tensor, widths).to(tensor.dtype)

    def own_widths(self, factor: str) -> Tensor:
        """The last axis of the tensor `factor` at each trial's own shape, (K,) int64 on the CPU."""
        key = ("own_widths", factor)
        if key not in self.vectors:
            self.vectors[key] = torch.tensor([shape[factor][-1] for shape in self.shapes])
        return self.vectors[key]


@dataclass(frozen=True)
class Adapter(ABC):
    """How a frozen backbone becomes trainable; the fields of a subclass are the hyper-parameters.

    Subclasses set `name` (unique, lower case) and implement `start` and `edits` (or, if all they do
    is add to linear layers, `updates`), and `select` unless they have fields `sites` and `layers`.
    `edits`, `updates`, `head` and `weights` are called on one member of a stack for all K of them:
    there `self` has only the fields that are equal for all; reading one declared with
    `stacks=True` is an error, its values come from `context`.
    """

    name: ClassVar[str]
    head_start: ClassVar[str] = "uniform"
    """How the head starts by default: `uniform` as nn.Linear does (±1/√D), `normal` (its weight
    truncated normal with deviation 0.02, its bias 0), or `zero`."""
    decays_head_bias: ClassVar[bool] = True
    """Whether the recipe's weight decay acts on the head's bias."""
    max_trials: ClassVar[int | None] = None
    """How many trials a stack of it may hold: None for any number, 1 if it cannot be stacked."""

    def __post_init__(self) -> None:
        check_fields(self)

    def select(self, sites: Sites) -> Sites:
        """The part of a backbone's sites that this adapter changes.

        By default what its fields `sites` and `layers` name.
        """
        chosen: Sites = sites.select(getattr(self, "sites"), getattr(self, "layers"))  # noqa: B009
        return chosen

    @abstractmethod
    def start(
        self, sites: Sites, generator: torch.Generator
    ) -> Mapping[str, Tensor] | Mapping[str, Parameter]:
        """One trial's tensors at their start, without the trial axis (fp32, CPU).

        Tensors are trained and counted; a `Parameter` says what else one is.
        """

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        """Paths of the modules that are edited; those of the selected linear layers by default."""
        return tuple(site.path for site in sites.linears)

    def reads(self, sites: Sites) -> tuple[int, ...]:
        """Numbers of blocks whose edit only reads: it returns what the frozen block does.

        Their inputs, as long as no earlier block is changed, are the same for all trials and epochs
        and may be computed once; then `base` returns anything, in place of the block.
        """
        return ()

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
        """Name → tensor of the backbone's own parameters that the adapter replaces.

        Only for adapters of `max_trials` 1. `tensors` are those of `Kind.TRAINED`.
        """
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
        free = per_trial_fields(type(self))
        fixed = [item.name for item in fields(self) if item.name not in free]
        return (("adapter", self.name), *((name, getattr(self, name)) for name in fixed))


def uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    """Uniform on ±bound."""
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)
