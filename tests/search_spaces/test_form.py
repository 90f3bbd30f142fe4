from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

import search_spaces
from orchestrator.storage.yaml import parse_yaml
from search_spaces import from_yaml, narrow, to_yaml

BASE: dict[str, BaseDistribution] = {
    "scale": CategoricalDistribution((0.1, 1.0, 10.0)),
    "rank": CategoricalDistribution((8, 16)),
    "init": CategoricalDistribution(("u", "v")),
}
TEXT = """
rank: [4, 8]
lr: {low: 1e-4, high: 0.1, log: true}
batch: {low: 16, high: 64, step: 16}
dropout: {low: 0.0, high: 0.3, step: 0.1}
depth: {low: 1, high: 12}
weight_decay: [1e-4, 0, 0.05]
init: vv
shared: true
alpha: null
"""


def test_every_form_is_read() -> None:
    space, fixed = from_yaml(parse_yaml(TEXT))
    assert space == {
        "rank": CategoricalDistribution((4, 8)),
        "lr": FloatDistribution(1e-4, 0.1, log=True),
        "batch": IntDistribution(16, 64, step=16),
        "dropout": FloatDistribution(0.0, 0.3, step=0.1),
        "depth": IntDistribution(1, 12),
        "weight_decay": CategoricalDistribution((1e-4, 0, 0.05)),
    }
    assert fixed == {"init": "vv", "shared": True, "alpha": None}


def test_narrowing_replaces_per_field_and_keeps_the_order() -> None:
    space, fixed = narrow(BASE, {"lr": [0.1, 0.01], "rank": [32], "init": "v"})
    assert list(space) == ["scale", "rank", "lr"]
    assert space["scale"] == BASE["scale"]
    assert space["rank"] == CategoricalDistribution((32,))
    assert fixed == {"init": "v"}
    assert list(BASE) == ["scale", "rank", "init"]


def test_whole_numbers_become_floats_where_the_base_has_floats() -> None:
    space, _ = narrow(BASE, {"scale": [1, 10], "rank": [1, 2]})
    assert isinstance(space["scale"], CategoricalDistribution)
    assert [type(choice) for choice in space["scale"].choices] == [float, float]
    assert [type(choice) for choice in search_spaces.choices(space["rank"]) or ()] == [int, int]
    assert narrow(BASE, {"scale": {"low": 1, "high": 100}})[0]["scale"] == FloatDistribution(1, 100)
    assert type(narrow(BASE, {"scale": 3})[1]["scale"]) is float


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ([], "'x' has no choices; allowed: a list of choices, one value, or a mapping"),
        ([1, 2, 1], "'x' lists 1 twice"),
        ([1, 1.0], "'x' lists 1.0 twice"),
        ([[1, 2]], r"'x' is \[1, 2\]; allowed"),
        ([float("nan")], "'x' is nan; allowed: finite numbers"),
        (float("inf"), "'x' is inf; allowed: finite numbers"),
        ({"low": 1}, r"'x' is \{'low': 1\}; allowed: .*\{low, high, log\?, step\?\}"),
        ({"low": 1, "high": 2, "q": 1}, "allowed: .*low, high"),
        ({"low": 3, "high": 1}, "'x' is .*low"),
        ({"low": 0.0, "high": 1.0, "log": True}, "'x' is .*low"),
        ({"low": 1.0, "high": 2.0, "log": True, "step": 0.5}, "'x' is .*step"),
        ({"low": 0, "high": 10, "step": 3}, "whole number of steps"),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "whole number of steps"),
        ({"low": 0.0, "high": 1.0, "step": -1}, "'x' is .*step"),
        ({"low": 0.0, "high": 1.0, "step": 1e-10}, "at most 100,000 steps"),
        ({"low": "a", "high": 2}, "'x' has low 'a'; allowed: a number"),
        ({"low": True, "high": 2}, "'x' has low True; allowed: a number"),
        ({"low": None, "high": 2}, "'x' is .*allowed: numbers"),
        ({"low": 1, "high": 2, "log": "yes"}, "log a boolean"),
    ],
)
def test_wrong_forms_are_refused(form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_yaml({"x": form})


@pytest.mark.parametrize("mapping", [None, [1], "rank", {1: [2]}])
def test_what_is_no_mapping_of_fields_is_refused(mapping: Any) -> None:
    with pytest.raises(ValueError, match="allowed: a mapping of fields"):
        from_yaml(mapping)


def test_selections_are_read_in_one_spelling() -> None:
    space, fixed = from_yaml({"layers": ["2+0-1", "5-8", None], "sites": "q+v"})
    assert space == {"layers": CategoricalDistribution(("0-2", "5-8", None))}
    assert fixed == {"sites": "q+v"}
    with pytest.raises(ValueError, match="'layers' lists '0-2' twice"):
        from_yaml({"layers": ["0-2", "0+1+2"]})
    with pytest.raises(ValueError, match=r"layers is 'first'; allowed: blocks such as '0-2'"):
        from_yaml({"layers": ["first"]})


RANGES: dict[str, BaseDistribution] = {
    "a": IntDistribution(2, 8, step=3),
    "b": IntDistribution(1, 12, log=True),
    "c": FloatDistribution(0.5, 7.5),
    "d": FloatDistribution(1.0, 3.0, log=True),
    "e": FloatDistribution(0.0, 0.3, step=0.1),
    "f": IntDistribution(4, 4),
}


@pytest.mark.parametrize("space", [*search_spaces.SPACES.values(), RANGES])
def test_spaces_survive_yaml_and_json(space: search_spaces.Space) -> None:
    for text in (json.dumps(to_yaml(space)), yaml.safe_dump(to_yaml(space), sort_keys=False)):
        back, fixed = from_yaml(parse_yaml(text))
        assert (back, fixed) == (space, {})
        assert list(back) == list(space)
