"""The one page of the interface: what an adapter is, and the five things to do with one.

    model = timm.create_model("vit_base_patch16_224", pretrained=True)
    attach(model, LoRA(rank=8), num_classes=100)     # frozen backbone, trainable adapter and head
    ...                                              # train model.parameters() that require grad
    save(model, "folder"); merge(model)              # a plain timm model again

An adapter is a frozen dataclass whose fields are its hyper-parameters. It says which linear layers
it changes (`select`), how its tensors start (`start`) and what it adds to a layer's output
(`updates`). It is written once, on the trial axis: see `adapters.stack`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from adapters.knobs import check_fields
from adapters.noise import Noise
from adapters.sites import Linear, Sites

Tensors = dict[str, Tensor]
Update = Callable[[Tensor], Tensor]
"""x (K, N, in) → what is added to the layer's output (K, N, out of all its parts)."""


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

    def vector(self, name: str) -> Tensor:
        """Field `name` of every trial as (K, 1, 1), ready to scale (K, N, features)."""
        values = [float(getattr(adapter, name)) for adapter in self.adapters]
        return torch.tensor(values, device=self.device, dtype=self.dtype).view(-1, 1, 1)

    def drop_factor(self, name: str, tensor: Tensor) -> Tensor:
        """Dropout on a factor (K, …) with every trial's own `dropout` rate and shape."""
        if self.noise is None:
            return tensor
        rates = [getattr(adapter, "dropout", 0.0) for adapter in self.adapters]
        mask = self.noise.dropout(rates, [shape[name] for shape in self.shapes])
        return tensor if mask is None else tensor * mask.to(tensor.dtype)

    def drop_activation(self, tensor: Tensor) -> Tensor:
        """Dropout on an activation (K, N, features) with every trial's own `dropout` rate."""
        if self.noise is None:
            return tensor
        rates = [getattr(adapter, "dropout", 0.0) for adapter in self.adapters]
        mask = self.noise.dropout(rates, [tuple(tensor.shape[1:])] * len(rates))
        return tensor if mask is None else tensor * mask.to(tensor.dtype)


@dataclass(frozen=True)
class Adapter(ABC):
    """How a frozen backbone becomes trainable; the fields of a subclass are the hyper-parameters.

    Subclasses set `name` (unique, lower case) and implement the three methods below. `updates` is
    called on one member of a stack for all K of them: what differs between trials comes from
    `context`, never from `self`.
    """

    name: ClassVar[str]
    zero_head: ClassVar[bool] = False
    """Whether the head starts at 0 by default, not as nn.Linear does."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def select(self, sites: Sites) -> Sites:
        """The part of a backbone's sites that this adapter changes."""

    @abstractmethod
    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """One trial's tensors at their start, without the trial axis (fp32, CPU)."""

    @abstractmethod
    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        """Layer path → update, for one forward pass; `tensors` are (K, …), zero-padded."""

    def to_dict(self) -> dict[str, Any]:
        """The hyper-parameters as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def family(self) -> tuple[Any, ...]:
        """Trials stack if this is equal: the name and every field that cannot differ in a stack."""
        fixed = (getattr(self, f.name) for f in fields(self) if not f.metadata.get("stacks"))
        return (self.name, *fixed)


def uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    """Uniform on ±bound."""
    return torch.empty(*shape).uniform_(-bound, bound, generator=generator)


def by_parts(site: Linear, parts: Mapping[str, Update]) -> Update:
    """One update for a (fused) layer from the updates of its chosen parts; the others get zeros."""

    def update(x: Tensor) -> Tensor:
        return spread(site, {part: part_update(x) for part, part_update in parts.items()})

    return update


def spread(site: Linear, outputs: Mapping[str, Tensor]) -> Tensor:
    """Outputs (K, N, out) by part → (K, N, all parts · out), zeros for parts not chosen."""
    if len(site.parts) == 1:
        return outputs[site.parts[0]]
    some = next(iter(outputs.values()))
    zeros = some.new_zeros(()).expand_as(some)
    return torch.cat([outputs.get(part, zeros) for part in site.parts], dim=-1)
