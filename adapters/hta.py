"""HTA: Householder transformations as singular factors (arXiv 2410.22952, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.base import Adapter, Context, Edit, Tensors, uniform
from adapters.errors import AdapterError
from adapters.fuse import Update, spread
from adapters.hyperparameters import hyperparameter
from adapters.sites import Linear, Sites


@dataclass(frozen=True)
class HTA(Adapter):
    """ΔW = A B + H_l diag(d) H_r for every chosen part, A (in,r), B (r,out), r = `rank` ≥ 0.

    H = I − v vᵀ (`form="paper"`) or I − 2 v vᵀ/‖v‖² (`form="unit"`, orthogonal for every v). Where
    in ≠ out (fc1, fc2: our extension) d has min(in, out) entries on the leading diagonal.
    Start: d = 0, B = 0, A uniform ±1/√in, v random unit·√2 (where both forms agree), so ΔW = 0.
    `dropout` acts on the update. Neither H nor ΔW is formed: x H = x − (x·v) v. Count per part:
    r·(in+out) + min(in,out) + in + out; r=1 on q,k,v,o of ViT-B/16: 184,320, on q,v: 92,160.
    """

    name: ClassVar[str] = "hta"
    rank: int = hyperparameter(1, low=0, stacks=True)
    dropout: float = hyperparameter(0.0, low=0, below=1, stacks=True)
    form: str = hyperparameter("paper", among=("paper", "unit"))
    sites: tuple[str, ...] = hyperparameter(("q", "k", "v", "o"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.<part>.A`, `.B`, `.d`, `.v_l`, `.v_r` of every chosen part."""
        tensors: Tensors = {}
        for site in sites.linears:
            for part in site.chosen:
                values = (
                    uniform((site.inputs, self.rank), 1 / sqrt(site.inputs), generator),
                    torch.zeros(self.rank, site.out),
                    torch.zeros(min(site.inputs, site.out)),
                    _reflector(site.inputs, generator),
                    _reflector(site.out, generator),
                )
                tensors |= zip(_names(site, part), values, strict=True)
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        def layer(site: Linear) -> Update:
            def update(x: Tensor) -> Tensor:
                parts = {p: _transformed(x, tensors, site, p, self.form) for p in site.chosen}
                return context.drop_activation(spread(site, parts))

            return update

        return {site.path: layer(site) for site in sites.linears}


@dataclass(frozen=True)
class HTAAdapter(Adapter):
    """y ← y (A B + H_l diag(d) H_r), y the output of MHSA (`o`) or FFN (`fc2`), residual kept.

    A (D,r), B (r,D), r = `rank` ≥ 0; H as in `HTA`, in the same two forms. Start: the identity, as
    v_l = v_r with ‖v‖ = √2 (H H = I in both forms), d = 1, B = 0; A uniform ±1/√D. `dropout` acts
    on the change of y. Count per output: (2r + 3)·D; r=1 on ViT-B/16's FFN only: 46,080,
    on both: 92,160.
    """

    name: ClassVar[str] = "hta_adapter"
    rank: int = hyperparameter(1, low=0, stacks=True)
    dropout: float = hyperparameter(0.0, low=0, below=1, stacks=True)
    form: str = hyperparameter("paper", among=("paper", "unit"))
    sites: tuple[str, ...] = hyperparameter(("mhsa", "ffn"))
    layers: tuple[int, ...] | None = hyperparameter(None)

    def select(self, sites: Sites) -> Sites:
        chosen = sites.select(self.sites, self.layers)
        outputs = tuple(site for site in chosen.linears if site.parts in (("o",), ("fc2",)))
        if not outputs:
            raise AdapterError(
                f"sites={self.sites} matches no output; hta_adapter changes those of MHSA "
                "(mhsa or o) and FFN (ffn or fc2)."
            )
        return replace(chosen, linears=outputs)

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        """`blocks.<i>.<part>.A`, `.B`, `.d`, `.v_l`, `.v_r` of every output."""
        tensors: Tensors = {}
        for site in sites.linears:
            width, v = site.out, _reflector(site.out, generator)
            a = uniform((width, self.rank), 1 / sqrt(width), generator)
            values = (a, torch.zeros(self.rank, width), torch.ones(width), v, v.clone())
            tensors |= zip(_names(site, site.parts[0]), values, strict=True)
        return tensors

    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        def output(site: Linear) -> Edit:
            def change(y: Tensor) -> Tensor:
                new = _transformed(y, tensors, site, site.parts[0], self.form)
                return y + context.drop_activation(new - y)

            return context.mapped(change)

        return {site.path: output(site) for site in sites.linears}


def _names(site: Linear, part: str) -> list[str]:
    return [f"{site.tensor_name(part)}.{name}" for name in ("A", "B", "d", "v_l", "v_r")]


def _transformed(x: Tensor, tensors: Tensors, site: Linear, part: str, form: str) -> Tensor:
    """x (A B + H_l diag(d) H_r) for x (K, N, in), as (x A) B + ((x H_l) ⊙ d) H_r."""
    a, b, d, v_l, v_r = (tensors[name] for name in _names(site, part))
    core = _reflect(x, v_l, form)[..., : d.shape[-1]] * d.unsqueeze(1)
    if site.out > core.shape[-1]:
        core = F.pad(core, (0, site.out - core.shape[-1]))
    return (x @ a) @ b + _reflect(core, v_r, form)


def _reflect(x: Tensor, v: Tensor, form: str) -> Tensor:
    """x H for x (K, N, n), v (K, n)."""
    along = x @ v.unsqueeze(-1)  # (K, N, 1)
    if form == "unit":
        along = along * (2 / v.square().sum(-1).view(-1, 1, 1))
    return x - along * v.unsqueeze(1)


def _reflector(size: int, generator: torch.Generator) -> Tensor:
    v = torch.empty(size).normal_(generator=generator)
    unit: Tensor = v / torch.linalg.vector_norm(v)
    return unit * sqrt(2)
