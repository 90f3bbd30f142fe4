"""Bottleneck adapters: serial (arXiv 1902.00751, 2005.00247), AdaptFormer (arXiv 2205.13535)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.base import Adapter, Context, Edit, Tensors, uniform
from adapters.errors import AdapterError
from adapters.fuse import Update
from adapters.hyperparameters import hyperparameter
from adapters.sites import Norm, Sites

_ENDS: dict[str, tuple[str, ...]] = {"pfeiffer": ("fc2",), "houlsby": ("o", "fc2")}


@dataclass(frozen=True)
class Bottleneck(Adapter):
    """y + up(GELU(down(y))), y the FFN's output; `position="houlsby"`: MHSA's output as well.

    down (D, h), up (h, D), h = `hidden`, both with biases. Start: up and biases 0, down
    Kaiming-uniform ±√(6/D). GELU(0) = 0, so zero-padding `hidden` is exact. `sites` narrows it to
    `ffn`, or with houlsby to `mhsa`. Count per module: 2Dh + h + D; h=8 on ViT-B/16: 156,768,
    houlsby 313,536. Houlsby et al. section 2.1; Pfeiffer et al. (AdapterFusion) section 3.
    """

    name: ClassVar[str] = "adapter"
    hidden: int = hyperparameter(8, low=1, stacks=True)
    position: str = hyperparameter("pfeiffer", among=tuple(_ENDS))
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        chosen = sites.select(self.sites, self.layers)
        ends = _ENDS[self.position]
        linears = tuple(site for site in chosen.linears if site.chosen[0] in ends)
        if not linears:
            raise AdapterError(
                f"sites={self.sites} with position='{self.position}' matches nothing: such an "
                f"adapter follows {' and '.join(ends)}. Choose sites=('ffn',), or 'mhsa' with "
                "position='houlsby'."
            )
        return replace(chosen, linears=linears)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.<o or fc2>.down`, `.down_bias`, `.up`, `.up_bias`."""
        tensors: Tensors = {}
        for site in sites.linears:
            down = uniform((site.out, self.hidden), sqrt(6 / site.out), generator)
            up = torch.zeros(self.hidden, site.out)
            tensors |= bottleneck(site.tensor_name(site.parts[0]), down, up)
        return tensors

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        """The halves themselves (`….attn`, `….mlp`)."""
        return tuple(_half(site.path) for site in sites.linears)

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        return {
            _half(site.path): serial(tensors, site.tensor_name(site.parts[0]), context)
            for site in sites.linears
        }


@dataclass(frozen=True)
class AdaptFormer(Adapter):
    """x′ + FFN(norm2(x′)) + s·up(dropout(ReLU(down(x′)))): beside the FFN, on what norm2 reads.

    down (D, h), up (h, D), h = `hidden`, both with biases; stochastic depth drops the FFN only.
    Start: up and biases 0, down uniform ±1/√D. Padding `hidden` is exact. `sites` with `mhsa` puts
    one beside MHSA too (our extension: it reads what norm1 reads). Count per module: 2Dh + h + D;
    h=8 on ViT-B/16: 156,768. Section 3.2.
    """

    name: ClassVar[str] = "adaptformer"
    hidden: int = hyperparameter(8, low=1, stacks=True)
    scale: float = hyperparameter(0.1, low=0, stacks=True)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)
    sites: tuple[str, ...] = hyperparameter(("ffn",))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.<mhsa or ffn>.down`, `.down_bias`, `.up`, `.up_bias`."""
        tensors: Tensors = {}
        for norm in _inner(sites):
            down = uniform((norm.width, self.hidden), 1 / sqrt(norm.width), generator)
            up = torch.zeros(self.hidden, norm.width)
            tensors |= bottleneck(f"blocks.{norm.block}.{norm.group}", down, up)
        return tensors

    def target_modules(self, sites: Sites) -> tuple[str, ...]:
        """Where a half ends, at its stochastic depth, and where it begins, at its norm."""
        norms = _inner(sites)
        return (*(_end(sites, norm) for norm in norms), *(norm.path for norm in norms))

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        """The norm's input is remembered and read again where its half ends."""
        edits: dict[str, Edit] = {}
        for norm in _inner(sites):
            branch = _branch(tensors, f"blocks.{norm.block}.{norm.group}", context)
            begin, end = _beside(branch, context)
            edits |= {norm.path: begin, _end(sites, norm): end}
        return edits


def bottleneck(prefix: str, down: Tensor, up: Tensor) -> Tensors:
    """The tensors of one adapter from its two matrices (D, h), (h, D); biases start at 0."""
    hidden, width = up.shape
    values = (down, torch.zeros(hidden), up, torch.zeros(width))
    return dict(zip(_names(prefix), values, strict=True))


def serial(tensors: Tensors, prefix: str, context: Context, activation: Update = F.gelu) -> Edit:
    """y → y + up(dropout(activation(down(y)))) on the output of a module."""
    w_down, b_down, w_up, b_up = _parts(tensors, prefix)
    hidden = context.own_widths(f"{prefix}.down")

    def change(y: Tensor) -> Tensor:
        h = context.drop_activation(activation(y @ w_down + b_down), hidden)
        return y + h @ w_up + b_up

    return context.mapped(change)


def _branch(tensors: Tensors, prefix: str, context: Context) -> Update:
    """x → s·up(dropout(ReLU(down(x))))."""
    w_down, b_down, w_up, b_up = _parts(tensors, prefix)
    scale, hidden = context.vector("scale"), context.own_widths(f"{prefix}.down")

    def update(x: Tensor) -> Tensor:
        h = context.drop_activation(F.relu(x @ w_down + b_down), hidden)
        return (h @ w_up + b_up) * scale

    return update


def _parts(tensors: Tensors, prefix: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """down (K, D, h), its bias (K, 1, h), up (K, h, D), its bias (K, 1, D)."""
    w_down, b_down, w_up, b_up = (tensors[name] for name in _names(prefix))
    return w_down, b_down.unsqueeze(1), w_up, b_up.unsqueeze(1)


def _names(prefix: str) -> list[str]:
    return [f"{prefix}.{name}" for name in ("down", "down_bias", "up", "up_bias")]


def _beside(update: Update, context: Context) -> tuple[Edit, Edit]:
    """The edits of the modules where a half begins and ends: adds an update of its input."""
    inputs: list[Tensor] = []

    def begin(x: Tensor, base: nn.Module) -> Tensor:
        inputs.append(x)
        y: Tensor = base(x)
        return y

    def end(x: Tensor, base: nn.Module) -> Tensor:
        y: Tensor = base(x)
        return y + update(context.split(inputs.pop())).view(y.shape)

    return begin, end


def _inner(sites: Sites) -> tuple[Norm, ...]:
    return tuple(norm for norm in sites.norms if norm.group)


def _end(sites: Sites, norm: Norm) -> str:
    return sites.every_block[norm.block].drop_path(1 if norm.group == "mhsa" else 2)


def _half(path: str) -> str:
    return path.rpartition(".")[0]
