"""Adapters by name, users' own through entry points, and the checks of hyper-parameters."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from adapters import EFFT2, HTA, Adapter, AdapterError, LoRA, build, get
from adapters import names as listed
from adapters.names import built_in, table

TOY = "tests.adapters.test_testing:Toy"


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


def test_a_users_adapter_comes_through_an_entry_point(entries: list[EntryPoint]) -> None:
    entries.append(entry("toy", TOY))
    assert listed() == sorted(["toy", *built_in()])
    adapter = build("toy", {"scale": 2, "limit": None})
    assert type(adapter) is get("toy")
    assert adapter.to_dict() == {"rank": 2, "scale": 2.0, "dropout": 0.1, "limit": None}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lora", TOY, "takes the name 'lora', which exists already"),
        ("other", TOY, "the class must set name = 'other'"),
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
    entries += [entry("toy", TOY), entry("toy", "another:Toy")]
    with pytest.raises(AdapterError, match="another:Toy"):
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
        (LoRA, {"alpha": 10**400}, "LoRA.alpha must be of type float .*finite"),
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
