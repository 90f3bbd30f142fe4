"""The conformance kit finds faults: toy adapters with one fault each, and one without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters import Adapter, Kind, LoRA, Parameter, UnsupportedBackbone, hyperparameter
from adapters.base import Context, Edit, Tensors
from adapters.fuse import Update
from adapters.sites import Sites
from adapters.testing import ConformanceError, check


@dataclass(frozen=True)
class Toy(Adapter):
    """y + s·(x A) B on the attention's output."""

    name: ClassVar[str] = "toy"
    rank: int = hyperparameter(2, low=1, stacks=True)
    scale: float = hyperparameter(1.5, low=0, stacks=True)
    dropout: float = hyperparameter(0.1, low=0, below=1, stacks=True)
    limit: Optional[int] = None  # noqa: UP045 (the older spelling works too)

    def select(self, sites: Sites) -> Sites:
        return sites.select(("o",))

    def start(self, sites: Sites, generator: torch.Generator) -> Mapping[str, Any]:
        tensors: Tensors = {}
        for site in sites.linears:
            shape = (site.inputs, self.rank)
            tensors[f"blocks.{site.block}.A"] = torch.empty(shape).normal_(generator=generator)
            tensors[f"blocks.{site.block}.B"] = torch.zeros(self.rank, site.out)
        return tensors

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        def layer(a: Tensor, b: Tensor) -> Update:
            return lambda x: self.product(x, a, b, context)

        return {
            site.path: layer(*(tensors[f"blocks.{site.block}.{name}"] for name in "AB"))
            for site in sites.linears
        }

    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return context.drop_activation(x) @ a @ b * context.vector("scale")


class OnViT(Toy):
    """Half the time: each fault below shows on a ViT."""

    def select(self, sites: Sites) -> Sites:
        if sites.family != "vit":
            raise UnsupportedBackbone("looked for a ViT.")
        return super().select(sites)


class ReadsItself(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return context.drop_activation(x) @ a @ b * self.scale


class TakesTheFirstTrials(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return context.drop_activation(x) @ a @ b * context.adapters[0].scale  # type: ignore[attr-defined]


class MixesTrials(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return super().product(x - x.mean(0), a, b, context)


class TrainsThePadding(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return (context.drop_activation(x) @ a + 1) @ b * context.vector("scale")


class DropsGlobally(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return F.dropout(x, 0.5, context.training) @ a @ b * context.vector("scale")


class NeverDrops(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return x @ a @ b * context.vector("scale")


class DropsTheSame(OnViT):
    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        if context.training and context.adapters[0].dropout:  # type: ignore[attr-defined]
            generator = torch.Generator().manual_seed(0)
            x = x * (torch.rand(x.shape, generator=generator) > 0.5)
        return x @ a @ b * context.vector("scale")


class StartsAway(OnViT):
    def start(self, sites: Sites, generator: torch.Generator) -> Mapping[str, Any]:
        started = super().start(sites, generator)
        return {name: torch.full_like(t, 0.1).cumsum(-1) for name, t in started.items()}


class StartsFromTheGlobalSeed(OnViT):
    def start(self, sites: Sites, generator: torch.Generator) -> Mapping[str, Any]:
        return {
            name: torch.randn(t.shape) if name.endswith("A") else t
            for name, t in super().start(sites, generator).items()
        }


class LeavesOneUnused(OnViT):
    def start(self, sites: Sites, generator: torch.Generator) -> Mapping[str, Any]:
        return {**super().start(sites, generator), "unused": torch.ones(3)}


class CountsItsHead(OnViT):
    def start(self, sites: Sites, generator: torch.Generator) -> Mapping[str, Any]:
        return {**super().start(sites, generator), "gain": torch.ones(sites.width)}

    def head(self, tensors: Tensors, context: Context) -> Update:
        return lambda z: z * tensors["gain"].unsqueeze(1)


class HidesItsTensors(OnViT):
    def start(self, sites: Sites, generator: torch.Generator) -> Mapping[str, Any]:
        started = super().start(sites, generator)
        return {name: Parameter(t, Kind.HEAD) for name, t in started.items()}


class ComputesAnotherSum(OnViT):
    """On few tokens, such as the rows of a probe, nothing is added."""

    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        return super().product(x, a, b, context) * (x.shape[1] > 40)


class KeepsStateOutside(OnViT):
    passes: ClassVar[list[int]] = []

    def product(self, x: Tensor, a: Tensor, b: Tensor, context: Context) -> Tensor:
        self.passes.extend([1] if context.training else [])
        return super().product(x, a, b, context) + 1e-3 * len(self.passes)


class WritesTheBackbone(OnViT):
    def edits(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Edit]:
        def edit(x: Tensor, base: nn.Module, inner: Edit) -> Tensor:
            base.get_parameter("weight").data *= 1.01
            return inner(x, base)

        inner = super().edits(tensors, sites, context)
        return {path: lambda x, base, one=one: edit(x, base, one) for path, one in inner.items()}


class RefusesEverything(Toy):
    def select(self, sites: Sites) -> Sites:
        return LoRA(sites=("nowhere",)).select(sites)


FAULTS: list[tuple[type[Toy], str]] = [
    (ReadsItself, r"ReadsItself reads self\.scale in a forward pass, .*context\.vector\('scale'\)"),
    (TakesTheFirstTrials, r"trains otherwise alone than beside other trials"),
    (MixesTrials, r"trains otherwise alone than beside other trials"),
    (TrainsThePadding, r"the zero-padding of .*blocks\.0\.B.* does not stay zero"),
    (DropsGlobally, r"a training pass draws from the global random generator"),
    (NeverDrops, r"its dropout changes nothing in a training pass"),
    (DropsTheSame, r"its dropout masks are the same in every step"),
    (StartsAway, r"it starts away from the frozen model, though identity=True"),
    (StartsFromTheGlobalSeed, r"start draws from the global random generator"),
    (LeavesOneUnused, r"the trained tensor 'unused' gets no gradient"),
    (CountsItsHead, r"'gain' is counted as trained outside the head"),
    (HidesItsTensors, r"'blocks\.0\.B' is declared as head, but it changes the features"),
    (ComputesAnotherSum, r"the merged model computes something else than the adapted one"),
    (KeepsStateOutside, r"training a copy of the model changes the model"),
    (WritesTheBackbone, r"it changes the frozen weights blocks\.0\.attn\.proj\.weight"),
    (RefusesEverything, r"unknown site 'nowhere'"),
]


def test_a_sound_adapter_passes() -> None:
    check(Toy(), identity=True, merges=True, vit_b16_count=12 * 2 * 768 * 2)


@pytest.mark.parametrize(("cls", "sentence"), FAULTS, ids=[cls.__name__ for cls, _ in FAULTS])
def test_a_fault_is_found_and_described(cls: type[Toy], sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        check(cls(), identity=True)


def test_wrong_claims_are_found() -> None:
    with pytest.raises(ConformanceError) as found:
        check(Toy(), identity=False, merges=False, vit_b16_count=7)
    text = str(found.value)
    assert "it counts 36,864 trained values on ViT-B/16, not 7" in text
    assert "ViT: it starts as the frozen model, though identity=False" in text
    assert "Swin: it merges, though merges=False" in text
