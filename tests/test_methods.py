"""docs/methods.md is true: names, counts and costs. The contract test reads its other columns."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import adapters
from adapters.backbones import find_sites
from adapters.names import built_in
from adapters.stack import start_member
from tests.adapters.claims import CLAIMS
from tests.imports import ROOT


def test_every_method_is_in_the_table() -> None:
    assert {name: claim.cls for name, claim in CLAIMS.items()} == {
        name: cls.__name__ for name, cls in built_in().items()
    }


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_the_table_states_the_counts_of_the_code(name: str) -> None:
    with torch.device("meta"):
        sites = find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))
        member = start_member(adapters.get(name)(), sites, 0, None)
    assert member.trained_count == CLAIMS[name].count


def test_the_costs_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/step_cost.json").read_text())
    text = (ROOT / "docs/methods.md").read_text()
    for name, costs in found["step_relative_to_linear"].items():
        together = f"{costs['k16']:.2f}" if "k16" in costs else "–"
        assert f"| `{name}` | {costs['k1']:.2f} | {together} |" in text
