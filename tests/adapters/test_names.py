"""Adapters by name, users' own through entry points, and the checks of hyper-parameters."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, ClassVar, Optional

import pytest
import torch

from adapters import EFFT2, HTA, Adapter, AdapterError, LoRA, attach, build, get, merge
from adapters import names as listed
from adapters.base import Context, Tensors, Update
from adapters.hyperparameters import hyperparameter
from adapters.names import built_in, table
from adapters.sites import Sites
from tests.adapters.models import close, images, randomise, vit


@dataclass(frozen=True)
class Diagonal(Adapter):
    """A user's own: ΔW = diag(d) on the attention's output."""

    name: ClassVar[str] = "diagonal"
    gain: float = hyperparameter(1.0, low=0, stacks=True)
    limit: Optional[int] = None  # noqa: UP045 (the older way of saying it works too)

    def select(self, sites: Sites) -> Sites:
        return sites.select(("o",))

    def start(self, sites: Sites, generator: torch.Generator) -> Tensors:
        return {f"d.{site.block}": torch.zeros(site.out) for site in sites.linears}

    def updates(self, tensors: Tensors, sites: Sites, context: Context) -> dict[str, Update]:
        def layer(d: torch.Tensor) -> Update:
            return lambda x: x * d.unsqueeze(1) * context.vector("gain")

        return {site.path: layer(tensors[f"d.{site.block}"]) for site in sites.linears}


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    found: list[EntryPoint] = []
    module = importlib.import_module("adapters.names")  # `adapters.names` is also the function
    monkeypatch.setattr(module, "entry_points", lambda group: EntryPoints(found))
    table.cache_clear()
    yield found
    table.cache_clear()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "orchestrate.adapters")


BUILT_IN = [
    "full",
    "linear",
    "partial",
    "mlp_head",
    "bitfit",
    "vpt_shallow",
    "vpt_deep",
    "adapter",
    "adaptformer",
    "lora",
    "ssf",
    "fact_tt",
    "fact_tk",
    "efft1",
    "efft2",
    "hta",
    "hta_adapter",
    "arc",
    "rlrr",
    "noah",
]


def test_the_built_in_ones() -> None:
    assert sorted(built_in()) == sorted(BUILT_IN)
    assert get("efft2") is EFFT2


def test_a_users_adapter_comes_through_an_entry_point(entries: list[EntryPoint]) -> None:
    entries.append(entry("diagonal", f"{__name__}:Diagonal"))
    assert listed() == sorted(["diagonal", *BUILT_IN])
    adapter = build("diagonal", {"gain": 2, "limit": None})
    model = attach(vit(), [adapter, Diagonal(gain=0.5)], num_classes=[2, 3])
    assert model(images(4)).shape == (4, 3)
    model = attach(vit(), adapter, num_classes=3)
    randomise(model)
    expected = model(images(2))
    assert close(merge(model)(images(2)), expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lora", f"{__name__}:Diagonal", "takes the name 'lora', which exists already"),
        ("other", f"{__name__}:Diagonal", "the class must set name = 'other'"),
        ("mine", f"{__name__}:entry", "is not a subclass of adapters.Adapter"),
        ("mine", "no_such_package:Mine", "cannot be loaded: ModuleNotFoundError"),
        ("mine", f"{__name__}:Missing", "cannot be loaded: AttributeError"),
    ],
)
def test_entry_points_that_cannot_be_used(
    entries: list[EntryPoint], name: str, value: str, message: str
) -> None:
    entries.append(entry(name, value))
    with pytest.raises(AdapterError, match=message) as error:
        listed()
    assert value in str(error.value)


def test_two_packages_cannot_have_one_name(entries: list[EntryPoint]) -> None:
    entries += [entry("diagonal", f"{__name__}:Diagonal"), entry("diagonal", "another:Diagonal")]
    with pytest.raises(AdapterError, match="another:Diagonal"):
        listed()


def test_unknown_names_show_the_alternatives() -> None:
    with pytest.raises(AdapterError, match=r"unknown adapter 'Lora'; available: .*lora"):
        get("Lora")
    with pytest.raises(AdapterError, match="'lora' has no field 'name'; its fields: rank, alpha"):
        build("lora", {"name": "x"})
    with pytest.raises(AdapterError, match="'linear' has no field 'rank'; its fields: none"):
        build("linear", {"rank": 1})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (LoRA, {"rank": 0}, "LoRA.rank is 0; allowed: at least 1"),
        (LoRA, {"rank": 2.0}, "LoRA.rank must be of type int"),
        (LoRA, {"rank": True}, "LoRA.rank must be of type int"),
        (LoRA, {"rank": None}, "LoRA.rank must be of type int"),
        (LoRA, {"alpha": float("nan")}, "LoRA.alpha must be of type float .*finite.*not nan"),
        (LoRA, {"dropout": 1}, "LoRA.dropout is 1.0; allowed: at least 0 and below 1"),
        (LoRA, {"sites": "q"}, "LoRA.sites must be of type tuple"),
        (LoRA, {"sites": ["q", 3]}, "LoRA.sites must be of type tuple"),
        (LoRA, {"layers": [0.0]}, "LoRA.layers must be of type tuple"),
        (EFFT2, {"scale": float("inf")}, "EFFT2.scale must be of type float .*finite.*not inf"),
        (EFFT2, {"scale": -1}, "EFFT2.scale is -1.0; allowed: at least 0"),
        (EFFT2, {"init": "uvv"}, "EFFT2.init is 'uvv'; allowed: 'vv', 'vu', 'uv', 'uu'"),
        (EFFT2, {"cores": "own"}, "EFFT2.cores is 'own'; allowed: 'per_layer', 'shared'"),
        (EFFT2, {"ffn_rank": 0}, "EFFT2.ffn_rank is 0; allowed: at least 1"),
        (HTA, {"form": "householder"}, "HTA.form is 'householder'; allowed: 'paper', 'unit'"),
        (HTA, {"rank": -1}, "HTA.rank is -1; allowed: at least 0"),
    ],
)
def test_wrong_values(cls: type[Adapter], values: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        cls(**values)


def test_values_are_normalised() -> None:
    assert LoRA(alpha=2, sites=["q"], layers=[1]) == LoRA(alpha=2.0, sites=("q",), layers=(1,))  # type: ignore[arg-type]  # as JSON has them
    assert hash(LoRA(alpha=2)) == hash(LoRA(alpha=2.0))
