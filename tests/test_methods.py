"""docs/methods.md is true: names, counts, and what merges."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch

import adapters
from adapters.backbones import find_sites
from tests.imports import ROOT

ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \|.*\| (yes|no) \| ([\d,]+) \|$", re.MULTILINE)
ROWS = {name: (cls, merges, count) for name, cls, merges, count in ROW.findall(
    (ROOT / "docs/methods.md").read_text())}  # fmt: skip


def test_every_method_is_in_the_table() -> None:
    assert sorted(ROWS) == adapters.names()
    assert {name: cls for name, (cls, _, _) in ROWS.items()} == {
        name: adapters.get(name).__name__ for name in ROWS
    }


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_table_states_the_counts_of_the_code(name: str) -> None:
    with torch.device("meta"):
        sites = find_sites(timm.create_model("vit_base_patch16_224", num_classes=0))
        adapter = adapters.get(name)()
        tensors = adapter.start(adapter.select(sites), torch.Generator())
    own = (t.numel() for key, t in tensors.items() if not key.startswith(("head.", "state.")))
    assert f"{sum(own):,}" == ROWS[name][2]


def test_the_costs_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/step_cost.json").read_text())
    text = (ROOT / "docs/methods.md").read_text()
    for name, costs in found["step_relative_to_linear"].items():
        together = f"{costs['k16']:.2f}" if "k16" in costs else "–"
        assert f"| `{name}` | {costs['k1']:.2f} | {together} |" in text
